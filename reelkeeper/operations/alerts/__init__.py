"""Raise alerts, and deliver the messages in the outbox."""
