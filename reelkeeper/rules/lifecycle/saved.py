"""What freed bytes have saved so far: storage that was not paid for, at list price, had nothing ever been removed.

The first bytes of an account are free, so a small one saves less than this; `pricing.saving_this_month` says how much.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import Final

from reelkeeper.model.saving import Freed, Saved
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH, GB, STANDARD

SMALLER: Final = "smaller files"
GONE: Final = "expired and cold videos"
LEFTOVERS: Final = "leftovers"
KINDS: Final = (SMALLER, GONE, LEFTOVERS)
_KIND_OF: Final = {"replaced": SMALLER, "orphan": LEFTOVERS}  # any other rule lets a video go
_NANO: Final = 10**9


def per_day(freed: Iterable[Freed], last: date) -> Iterator[Saved]:
    """Give what each day up to `last` saved, by kind: from the day after, as a day is billed at its peak."""
    by_day: dict[date, Counter[str]] = {}
    for one in freed:
        by_day.setdefault(one.day, Counter())[kind_of(one.rule)] += one.size_bytes
    if not by_day:
        return
    so_far: Counter[str] = Counter()
    day = min(by_day)
    while day <= last:
        for kind in KINDS:
            if so_far[kind]:
                yield Saved(day, kind, a_day(so_far[kind]))
        so_far.update(by_day.get(day, {}))
        day += timedelta(days=1)


def kind_of(rule: str) -> str:
    """Say in words what the rule of a purge saved by."""
    return _KIND_OF.get(rule, GONE)


def a_day(size_bytes: int) -> int:
    """Give what one day of storing `size_bytes` costs at list price, in nano-dollars."""
    return round(size_bytes * STANDARD.storage_usd_per_gb_month * _NANO / (GB * DAYS_A_MONTH))
