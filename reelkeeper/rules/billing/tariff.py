"""Define Cloudflare R2's prices. A change of price is a change here, with a new PRICE_BOOK.

Source: Cloudflare's R2 pricing page (cloudflare/cloudflare-docs, src/content/docs/r2/pricing.mdx, commit 07ec87d4, read
2026-11-24). Prices are in dollars, allowances for a calendar month. Egress is free. Other products are not included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from reelkeeper.model.money import StorageClass

PRICE_BOOK: Final = "r2-2026-11"  # named on every charge at these prices
GB: Final = 10**9  # bytes; the limits page says GB for 10^9 and GiB for 2^30
MILLION: Final = 10**6  # operations are billed by the million
DAYS_A_MONTH: Final = 30  # "averaging the peak storage per day over a billing period (30 days)"


@dataclass(frozen=True, slots=True)
class Rates:
    """The prices of one storage class. A price is for a whole unit: paid usage is rounded up to units."""

    storage_usd_per_gb_month: Decimal
    class_a_usd_per_million: Decimal  # writes and listings
    class_b_usd_per_million: Decimal  # reads
    retrieval_usd_per_gb: Decimal = Decimal(0)  # of what is read or copied
    free_gb_months: int = 0
    free_class_a: int = 0
    free_class_b: int = 0
    minimum_days: int = 0  # charged as stored for this time, even if deleted, moved or replaced earlier


STANDARD: Final = Rates(
    storage_usd_per_gb_month=Decimal("0.015"),
    class_a_usd_per_million=Decimal("4.50"),
    class_b_usd_per_million=Decimal("0.36"),
    free_gb_months=10,
    free_class_a=1_000_000,
    free_class_b=10_000_000,
)
INFREQUENT_ACCESS: Final = Rates(
    storage_usd_per_gb_month=Decimal("0.01"),
    class_a_usd_per_million=Decimal("9.00"),
    class_b_usd_per_million=Decimal("0.90"),
    retrieval_usd_per_gb=Decimal("0.01"),
    minimum_days=30,
)
RATES: Final[Mapping[StorageClass, Rates]] = {
    StorageClass.STANDARD: STANDARD,
    StorageClass.INFREQUENT_ACCESS: INFREQUENT_ACCESS,
}

CLASS_B: Final = frozenset(
    {
        *("HeadBucket", "HeadObject", "GetObject", "UsageSummary", "GetBucketEncryption", "GetBucketLocation"),
        *("GetBucketCors", "GetBucketLifecycleConfiguration"),
    }
)
FREE: Final = frozenset({"DeleteObject", "DeleteBucket", "AbortMultipartUpload"})


def class_of(action: str) -> Literal["A", "B"] | None:
    """Return the class in which an operation of R2 or S3 is billed; None where it is free.

    Operations in no list, such as DeleteObjects, count as A, so that an unknown cost shows early. S3's ListObjectsV2 is
    R2's ListObjects.
    """
    if action in FREE:
        return None
    return "B" if action in CLASS_B else "A"
