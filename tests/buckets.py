"""Fixtures: buckets."""
