"""Check spend for exceeded budgets, anomalies and drift."""
