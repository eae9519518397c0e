"""Limits of access, tiers, and wording that other rules share."""
