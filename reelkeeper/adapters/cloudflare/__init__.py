"""Usage as Cloudflare reports it: R2's analytics (GraphQL), its metrics and the billable usage (REST).

Read 2026-11 from Cloudflare's documentation: "R2: Metrics and analytics", "GraphQL Analytics API" (limits, errors,
pagination, filtering, confidence intervals), "Rate limits", and the API reference of R2 metrics and of billable usage.
"""

from reelkeeper.adapters.cloudflare.analytics import KEPT_DAYS
from reelkeeper.adapters.cloudflare.client import Client, connect

__all__ = ["KEPT_DAYS", "Client", "connect"]
