"""Forecast the stored bytes: live bytes, plus uploads, less those that expire.

Retention makes most of the next month certain, so only uploads are forecast, and not the level itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import numpy as np

from reelkeeper.rules.forecast.series import Values

# The tier, of one segment where the lifecycle has segments: "drafts/free"; and whether the key is ours.
Kind: TypeAlias = tuple[str | None, bool]


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
    """Live bytes of one kind, of videos created on one day. A day of None is unknown, and these bytes are kept."""

    created: date | None
    kind: Kind
    size_bytes: int


def known_expiries(
    cohorts: Iterable[Cohort], purging: Mapping[date, int], kept_days: Mapping[Kind, int | None]
) -> dict[date, int]:
    """Return the live bytes deleted on each day: retired the day after their retention, then purged.

    `kept_days` are the retention and the grace. `purging` are those already retired. Cold videos may be deleted
    earlier; that is not known, and not counted.
    """
    leaving = dict(purging)
    for created, kind, size_bytes in cohorts:
        kept = kept_days.get(kind)
        if created is not None and kept is not None:
            day = created + timedelta(days=kept + 1)
            leaving[day] = leaving.get(day, 0) + size_bytes
    return leaving


def shares_by_life(uploaded: Mapping[Kind, int], kept_days: Mapping[Kind, int | None]) -> dict[int, float]:
    """Return the share of uploads deleted after a number of days, if each kind continues to come as before."""
    total_bytes, shares = sum(uploaded.values()), dict[int, float]()
    for kind, size_bytes in uploaded.items():
        kept = kept_days.get(kind)
        if kept is not None and total_bytes:
            shares[kept + 1] = shares.get(kept + 1, 0.0) + size_bytes / total_bytes
    return shares
