"""Our account against Cloudflare's, on the days that both know."""

from datetime import date

from reelkeeper.model.money import Metric, UsageSource, Used
from reelkeeper.rules.billing.reconcile import compare

GB = 10**9


def day(number: int) -> date:
    return date(2026, 11, number)


def test_only_the_days_that_both_know_are_compared_and_the_others_are_named() -> None:
    ours = [Used(day(number), Metric.STORED_BYTES, 30 * GB, storage_class="standard") for number in (1, 2)]
    ours.append(Used(day(2), Metric.OPERATIONS, 10, "PutObject"))
    theirs = [Used(day(number), Metric.STORED_BYTES, 33 * GB, "bucket", "standard") for number in (2, 3)]
    theirs += [Used(day(2), Metric.OPERATIONS, 1_000_010, "PutObject"), Used(day(2), Metric.OPERATIONS, 5, "GetObject")]
    found = compare(ours, [usage._replace(source=UsageSource.CLOUDFLARE) for usage in theirs])
    assert (found.both, found.only_ours, found.only_theirs) == ((day(2),), (day(1),), (day(3),))
    assert [
        (difference.sku, difference.ours, difference.theirs, difference.difference, difference.list_nanousd)
        for difference in found.differences
    ] == [
        ("r2-class-a-standard", 10, 1_000_010, 1_000_000, 4_500_000_000),
        ("r2-class-b-standard", 0, 5, 5, 1_800),
        ("r2-storage-standard", 30 * GB, 33 * GB, 3 * GB, 1_500_000),
    ]


def test_free_usage_and_days_without_usage_make_no_difference() -> None:
    found = compare([Used(day(1), Metric.OPERATIONS, 5, "DeleteObject")], [])
    assert found == ((), (), (), ())


def test_operations_of_a_day_without_cloudflares_count_of_them_are_unknown_and_not_none() -> None:
    """It has what is stored from another source, which may be there alone."""
    ours = [Used(day(number), Metric.STORED_BYTES, GB, storage_class="standard") for number in (1, 2)]
    ours += [Used(day(number), Metric.OPERATIONS, 10, "PutObject") for number in (1, 2)]
    theirs = [Used(day(number), Metric.STORED_BYTES, GB, "bucket", "standard") for number in (1, 2)]
    theirs.append(Used(day(1), Metric.OPERATIONS, 12, "PutObject"))
    found = compare(ours, [usage._replace(source=UsageSource.CLOUDFLARE) for usage in theirs])
    assert [(item.sku, item.ours, item.theirs) for item in found.differences] == [
        ("r2-class-a-standard", 10, 12),
        ("r2-storage-standard", 2 * GB, 2 * GB),
    ]
