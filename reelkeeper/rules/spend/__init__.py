"""Budgets, anomalies and drift of spend."""
