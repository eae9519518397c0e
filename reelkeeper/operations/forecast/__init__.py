"""Forecast usage and costs from what the store has counted."""
