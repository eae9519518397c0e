"""Reconcile the catalogue with the bucket."""
