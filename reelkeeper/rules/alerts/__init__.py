"""Decide when people are alerted, and write the messages."""
