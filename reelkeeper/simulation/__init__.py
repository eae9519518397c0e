"""Simulate policies on the catalogue, night by night, for operators to try one before it is applied."""
