"""How much will be stored: what is alive, and what will be uploaded, less what will expire.

Retention makes most of the next month certain, so the level itself is not forecast; only uploads are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from reelkeeper.rules.forecast.series import Values


@dataclass(frozen=True, slots=True)
class Stock:
    """What is stored at the end of the day before the first one that is forecast, and what is known to leave.

    `expiries` are bytes that leave on a day, of what is alive. `kept` says what share of new uploads leaves after how
    many days; what it does not name is kept throughout.
    """

    alive_bytes: int
    expiries: Mapping[date, int] = field(default_factory=dict)
    kept: Mapping[int, float] = field(default_factory=dict)  # days -> share of uploads, all in all at most 1


def daily_peaks(stock: Stock, first: date, uploads: Sequence[float] | Values) -> Values:
    """Give the peak of each day from `first` on: what was there in the morning, or is in the evening if that is more.

    Bytes leave on their day of expiry, and what expired earlier and is still alive leaves on the first day.
    """
    days = len(uploads)
    leaving = np.zeros(days)
    for day, size in stock.expiries.items():
        if (at := max(0, (day - first).days)) < days:
            leaving[at] += size
    arriving = np.asarray(uploads, dtype=np.float64)
    for after, share in stock.kept.items():
        if after < days:
            leaving[after:] += share * arriving[: days - after]
    evenings = np.array(list(accumulate(arriving - leaving, initial=float(stock.alive_bytes))))
    return np.asarray(np.maximum(np.maximum(evenings[:-1], evenings[1:]), 0.0), dtype=np.float64)


class Cohort(NamedTuple):
    """Live bytes of one tier, of videos created on one day. None is unknown, and keeps them.

    Where the lifecycle has segments, a tier is that of one segment: "drafts/free".
    """

    created: date | None
    tier: str | None
    size_bytes: int


def known_expiries(
    cohorts: Iterable[Cohort], purging: Mapping[date, int], retention_days: Mapping[str, int | None], grace_days: int
) -> dict[date, int]:
    """Say how many of the bytes that are alive leave on which day: retired the day after their retention, then purged.

    `purging` are those that are retired already. What merely is cold may go sooner; that is not known, nor counted.
    """
    leaving = dict(purging)
    for created, tier, size_bytes in cohorts:
        kept = retention_days.get(tier or "")
        if created is not None and kept is not None:
            day = created + timedelta(days=kept + 1 + grace_days)
            leaving[day] = leaving.get(day, 0) + size_bytes
    return leaving


def shares_by_life(
    uploaded: Mapping[str | None, int], retention_days: Mapping[str, int | None], grace_days: int
) -> dict[int, float]:
    """Say which share of uploads leaves after how many days, if tiers go on uploading as they did."""
    whole, shares = sum(uploaded.values()), dict[int, float]()
    for tier, size_bytes in uploaded.items():
        kept = retention_days.get(tier or "")
        if kept is not None and whole:
            life = kept + 1 + grace_days
            shares[life] = shares.get(life, 0.0) + size_bytes / whole
    return shares
