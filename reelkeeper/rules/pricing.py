"""What R2 charges, and what a stored byte costs. Money is Decimal dollars in prices, integer micro-dollars in rows.

Source: Cloudflare R2 pricing page (cloudflare/cloudflare-docs, r2/pricing.mdx), Standard storage, read 2026-11.
Egress is free. The bill rounds each line up to whole units; what stands here is marginal, before that rounding.
"""

from decimal import Decimal
from typing import Final

GB: Final = 10**9  # bytes; the limits page says GB for 10^9 and GiB for 2^30
STORAGE_USD_PER_GB_MONTH: Final = Decimal("0.015")
STORAGE_FREE_GB_MONTHS: Final = 10
CLASS_A_USD_PER_MILLION: Final = Decimal("4.50")  # writes and listings
CLASS_A_FREE: Final = 1_000_000  # a month
CLASS_B_USD_PER_MILLION: Final = Decimal("0.36")  # reads
CLASS_B_FREE: Final = 10_000_000  # a month

_MICROUSD: Final = 10**6


def storage_microusd_per_month(size_bytes: int) -> int:
    """Give what `size_bytes` more, or fewer, cost in a month beyond the free allowance, rounded half to even."""
    return round(size_bytes * STORAGE_USD_PER_GB_MONTH * _MICROUSD / GB)


def storage_usd_per_month(size_bytes: int) -> Decimal:
    """Give the storage line of a month in which `size_bytes` are stored throughout, free allowance taken off."""
    return max(size_bytes - STORAGE_FREE_GB_MONTHS * GB, 0) * STORAGE_USD_PER_GB_MONTH / GB
