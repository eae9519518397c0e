"""Takedowns, erasures, and where personal data stands."""
