"""Alerts and the outbox."""
