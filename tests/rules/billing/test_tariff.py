"""R2's tariff, as Cloudflare's pricing page lists it."""

import pytest

from reelkeeper.model.money import StorageClass
from reelkeeper.rules.billing.tariff import CLASS_B, FREE, RATES, class_of


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("PutObject", "A"),
        ("ListObjects", "A"),
        ("CompleteMultipartUpload", "A"),
        ("GetObject", "B"),
        ("HeadObject", "B"),
        ("DeleteObject", None),
        ("AbortMultipartUpload", None),
    ],
)
def test_an_operation_is_billed_in_the_class_that_lists_it(action: str, kind: str | None) -> None:
    assert class_of(action) == kind


@pytest.mark.parametrize("action", ["DeleteObjects", "ListObjectsV2", "SomethingNew", "getobject", ""])
def test_an_unlisted_operation_counts_as_class_a(action: str) -> None:
    assert class_of(action) == "A"


def test_no_operation_is_in_two_lists() -> None:
    assert len(CLASS_B | FREE) == len(CLASS_B) + len(FREE) == 8 + 3


def test_each_storage_class_has_a_price_and_only_standard_an_allowance() -> None:
    assert set(RATES) == set(StorageClass)
    infrequent = RATES[StorageClass.INFREQUENT_ACCESS]
    assert (infrequent.free_gb_months, infrequent.free_class_a, infrequent.free_class_b) == (0, 0, 0)
    assert infrequent.minimum_days == 30
