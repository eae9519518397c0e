"""Limits of access, and wording that other rules share."""
