"""Forecast the stored bytes: live bytes, plus uploads, less those that expire.

Retention makes most of the next month certain, so only uploads are forecast, and not the level itself.
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
    """The bytes stored at the end of the day before the forecast, and those known to be deleted.

    `expiries` are live bytes by their day of deletion. `kept` has the share of new uploads that is deleted after a
    number of days; the rest is kept throughout.
    """

    alive_bytes: int
    expiries: Mapping[date, int] = field(default_factory=dict)
    kept: Mapping[int, float] = field(default_factory=dict)  # days -> share of uploads, at most 1 in all


def daily_peaks(stock: Stock, first: date, uploads: Sequence[float] | Values) -> Values:
    """Return each day's peak from `first` on: the bytes at its beginning, or at its end if more.

    Bytes are deleted on their day of expiry; expired ones that are still live, on the first day.
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
    """Live bytes of one tier, of videos created on one day. A day of None is unknown, and these bytes are kept.

    Where the lifecycle has segments, a tier is that of one segment: "drafts/free".
    """

    created: date | None
    tier: str | None
    size_bytes: int


def known_expiries(
    cohorts: Iterable[Cohort], purging: Mapping[date, int], retention_days: Mapping[str, int | None], grace_days: int
) -> dict[date, int]:
    """Return the live bytes deleted on each day: retired the day after their retention, then purged.

    `purging` are those already retired. Cold videos may be deleted earlier; that is not known, and not counted.
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
    """Return the share of uploads deleted after a number of days, if tiers continue to upload as before."""
    total_bytes, shares = sum(uploaded.values()), dict[int, float]()
    for tier, size_bytes in uploaded.items():
        kept = retention_days.get(tier or "")
        if kept is not None and total_bytes:
            life = kept + 1 + grace_days
            shares[life] = shares.get(life, 0.0) + size_bytes / total_bytes
    return shares
