"""Compare two counts of the same days, the store's and Cloudflare's, which are never added."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final, NamedTuple

from reelkeeper.model.money import Metric, Used
from reelkeeper.rules.billing.allocation import LineItem, line_items_of
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH

COMPARED: Final = (Metric.STORED_BYTES, Metric.OPERATIONS, Metric.RETRIEVED_BYTES)


class Difference(NamedTuple):
    """Both counts of one item on the days known to both. `difference` is theirs less ours, also at list price."""

    sku: str
    unit: str
    ours: int
    theirs: int
    difference: int
    list_nanousd: int


class Comparison(NamedTuple):
    """The differences, and the days known to both, to us alone, and to Cloudflare alone."""

    differences: tuple[Difference, ...]
    both: tuple[date, ...]
    only_ours: tuple[date, ...]
    only_theirs: tuple[date, ...]


def compare(ours: Sequence[Used], theirs: Sequence[Used]) -> Comparison:
    """Compare the account's usage by both counts, on the days for which both have the stored bytes.

    Operations are left out on a day for which Cloudflare, which counts them apart, has none: that is unknown, not zero.
    Ours is lower where others use the account too: other buckets, uploads by the service, reads by its users.
    """
    our_days, their_days = (
        {usage.day for usage in rows if usage.metric == Metric.STORED_BYTES} for rows in (ours, theirs)
    )
    both = our_days & their_days
    # guard bill.no_operations: a day whose operations Cloudflare does not have yet is reported as one without any
    counted = both & {usage.day for usage in theirs if usage.metric == Metric.OPERATIONS}
    mine, others = (
        _count(usage for usage in rows if usage.day in (both if usage.metric == Metric.STORED_BYTES else counted))
        for rows in (ours, theirs)
    )
    return Comparison(
        tuple(
            Difference(
                item.sku,
                item.unit,
                mine[item],
                others[item],
                others[item] - mine[item],
                round((others[item] - mine[item]) * item.nanousd),
            )
            for item in sorted({*mine, *others})
        ),
        tuple(sorted(both)),
        tuple(sorted(our_days - their_days)),
        tuple(sorted(their_days - our_days)),
    )


def _count(rows: Iterable[Used]) -> Counter[LineItem]:
    """Sum billed usage, with prices for months of 30 days; free usage is not compared."""
    line_items, counts = line_items_of(DAYS_A_MONTH, PriceBook()), Counter[LineItem]()
    for usage in rows:
        for item in line_items(usage):
            counts[item] += usage.quantity
    return counts
