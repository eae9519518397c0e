"""Charges, the ledger, quotas and usage."""
