"""Forecasts and the samples that they learn from."""
