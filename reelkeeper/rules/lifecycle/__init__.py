"""Decide which videos are compressed, retired and purged, and within which limits."""
