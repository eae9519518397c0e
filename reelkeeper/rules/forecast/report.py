"""What a run of `forecast_costs` found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from reelkeeper.rules.core.wording import dollars
from reelkeeper.rules.forecast.costs import TOTAL, Cost

_MICRO = 10**6


@dataclass(frozen=True, slots=True)
class ForecastReport:
    """The totals of the months, and what would make them smaller, in a line each."""

    flow: str
    run_id: str
    dry_run: bool
    as_of: datetime
    months: tuple[str, ...]
    savings: tuple[str, ...]


def totals(costs: Sequence[Cost]) -> tuple[str, ...]:
    """Say what each month will cost, and between which amounts four of five such months end."""
    return tuple(
        f"{cost.month:%Y-%m}: {in_dollars(cost.mean_usd)}, in 4 of 5 cases {in_dollars(low)} to {in_dollars(high)}"
        for cost in costs
        if cost.service == TOTAL
        for low, high in [cost.bounds[80]]
    )


def in_dollars(amount: float) -> str:
    """Put dollars into words."""
    return dollars(amount * _MICRO)
