"""Move credits, reserve quotas, count usage and reconcile the bill."""
