"""What each scope cost on each day, at list price: a series for those who look for what is odd in it.

List price follows use from the first byte on. The bill follows allowances and rounding too: budgets are for that.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Final, NamedTuple

from reelkeeper.model.money import Charge
from reelkeeper.rules.spend.budget import TOTAL

_A_DAY: Final = timedelta(days=1)


class Spending(NamedTuple):
    """Nano-dollars a day from `first` on: of all, of each service and of each tier. None is unknown."""

    first: date
    series: Mapping[str, Sequence[int | None]]

    def day(self, n: int) -> date:
        """Give the day of a place in the series."""
        return self.first + n * _A_DAY


def by_scope(charges: Iterable[Charge], today: date) -> Spending:
    """Lay charges, or sums of them, out from the first of their days to today.

    A day without any charge is unknown; a service or tier that has none beside others cost nothing on it.
    """
    sums: defaultdict[str, defaultdict[date, int]] = defaultdict(lambda: defaultdict(int))
    for charge in charges:
        for scope in (TOTAL, f"service:{charge.service}", *([f"tier:{charge.tier}"] if charge.tier else [])):
            sums[scope][charge.day] += charge.list_nanousd
    known = sums[TOTAL]
    first = min(known, default=today)
    days = [first + n * _A_DAY for n in range((today - first).days + 1)]
    series = {scope: [own[day] if day in known else None for day in days] for scope, own in sorted(sums.items())}
    return Spending(first, series)


def scope_in_words(scope: str) -> str:
    """Give "The spend of service compute" for "service:compute"."""
    return "The spend" if scope == TOTAL else f"The spend of {scope.replace(':', ' ')}"
