"""Decisions: pure functions from values to values, and the policies with their thresholds."""
