"""Learn what recurs monthly in a daily series of two months or more, to remove it before a forecast and add it after.

A job on the last day of the month is an outlier to weekly models: they ignore it, and it is missing from the total.
A place of the month (its number, the last day, the last working day) recurs when at least two of its last three days
were odd in one direction and by a similar amount: two holidays on one number are no job. It is forgotten when they
were not.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Final

import numpy as np

from reelkeeper.rules.forecast.series import Values, departures
from reelkeeper.rules.spend.residuals import MONTHS, RECURRED, places

_LEAST_DAYS: Final = 35  # of history, with two days of some place of the month
_REMEMBERED: Final = 6  # months for the median of a factor
_ODD: Final = 0.75  # share of an outlier's bound
_ALIKE: Final = 0.5  # minimum ratio of two similar residuals


@dataclass(frozen=True, slots=True)
class Recurring:
    """A history without what recurs monthly, and the log ratio by which each place of the month differs."""

    values: Values
    logs: dict[str, float]

    def factors(self, days: Iterable[date]) -> Values:
        """Return the factors of days, by which to multiply a forecast from `values`."""
        found = ([self.logs[place] for place in places(day) if place in self.logs] for day in days)
        return np.array([math.exp(max(logs, key=abs, default=0.0)) for logs in found], dtype=np.float64)


def learn(values: Values, days: Sequence[date], season: int) -> Recurring:
    """Find the places of the month that recur, the most certain first; one of them explains a day."""
    left = departures(values, season) if len(values) >= _LEAST_DAYS else None
    if left is None:
        return Recurring(values, {})
    at_place: defaultdict[str, list[int]] = defaultdict(list)
    for at, day in enumerate(days):
        for place in places(day):
            at_place[place].append(at)
    odd = np.where(np.abs(left.residual) > _ODD * left.bound, np.sign(left.residual), 0.0)
    plain, logs = values.copy(), dict[str, float]()
    while found := [entry for place, at in at_place.items() if (entry := _recurs(place, at, odd, left.residual))]:
        _, place, way = max(found)
        explained = [at for at in at_place[place] if odd[at] == way]
        logs[place] = float(np.median(left.residual[explained[-_REMEMBERED:]]))
        plain[explained] = left.expected[explained]
        odd[explained] = 0
    return Recurring(plain, logs)


def _recurs(place: str, at: Sequence[int], odd: Values, residual: Values) -> tuple[float, str, float] | None:
    """Return the certainty that a place recurs, the place, and its direction; None if it does not recur."""
    way = float(np.sign(odd[at[-MONTHS:]].sum()))
    sizes = sorted(abs(residual[each]) for each in at[-MONTHS:] if odd[each] == way)
    is_alike = any(less >= _ALIKE * more for less, more in pairwise(sizes))
    if not way or len(sizes) < RECURRED or not is_alike:
        return None
    return float(np.mean(odd[at[-_REMEMBERED:]] == way)), place, way
