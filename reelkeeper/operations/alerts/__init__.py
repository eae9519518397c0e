"""Raise alerts, and deliver what the outbox holds."""
