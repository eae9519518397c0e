"""Public series for measuring and calibrating forecasts, from packages in the peers' environment."""
