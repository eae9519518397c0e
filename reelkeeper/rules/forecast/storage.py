"""How much will be stored: what is alive, and what will be uploaded, less what will expire.

Retention makes most of the next month certain, so the level itself is not forecast; only uploads are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import accumulate

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
