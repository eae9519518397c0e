"""Public series that forecasts are measured and calibrated on. They come from packages of the peers' environment."""
