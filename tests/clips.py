"""Fixtures: clips."""
