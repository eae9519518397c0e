"""Prices, charges, credits and quotas."""
