"""Bring the catalogue and the bucket into agreement."""
