"""Takedowns, erasures, and the columns with personal data."""
