"""Forecast the cost of months: usage is forecast, then priced with the tariff itself, with allowances and rounding.

Near an allowance the price of the expected usage is not the expected price, so whole distributions are priced. The
lines of one account grow together, but not exactly, so their bands are combined with a correlation of 0.5.
"""

import math
from calendar import monthrange
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

import numpy as np
import pandas as pd

from reelkeeper.model.document import RunReport, Table
from reelkeeper.model.money import MICRO, TOO_SHORT, CostForecast
from reelkeeper.rules.billing.allocation import STORAGE
from reelkeeper.rules.billing.pricing import gb_months
from reelkeeper.rules.core.wording import dollars
from reelkeeper.rules.forecast.lines import PART, UsageLine, storage_usd
from reelkeeper.rules.forecast.month import Outlook, outlook
from reelkeeper.rules.forecast.series import Values
from reelkeeper.rules.forecast.storage import Stock, daily_peaks

TOTAL: Final = ""
_MIDDLE: Final = tuple(at / 20 for at in range(1, 20))  # equally likely: the mean of their prices is the expected one
_PROBABILITIES: Final = (0.025, *_MIDDLE, 0.975)
_TOGETHER: Final = 0.5  # correlation of the errors of two lines
_WEEK: Final = 7


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored bytes, and how they will change. `peaks` are bytes of Standard storage on this month's days so far.

    The bytes in Infrequent Access are assumed to stay the same. Without `uploads`, no new ones are expected.
    """

    stock: Stock
    peaks: Mapping[date, int]
    uploads: "pd.Series[float] | None" = None
    infrequent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one service in a month, or of all with `service` "", in dollars. `bounds` are by level.

    A `service` such as `model:veo` or `provider:fal` is a part of the services compute and api.
    """

    month: date
    service: str
    mean_usd: float
    bounds: Mapping[int, tuple[float, float]]
    method: str

    def between(self, level: int) -> str:
        """Say between which dollars the cost is in `level` of 100 such months, or why that cannot be said."""
        return TOO_SHORT if self.method == TOO_SHORT else " to ".join(map(in_dollars, self.bounds[level]))


def predict(
    lines: Sequence[UsageLine],
    stored: Stored,
    as_of: date,
    months: int = 2,
    growth_percent_per_month: float | None = None,
) -> list[Cost]:
    """Forecast the cost of the month of `as_of` and of those after it, `months` in all, each with the total first.

    Then come the services, which sum to it, and the parts of each model and provider.

    Histories are daily, up to the day before `as_of`; a line without a history is left out. Where the longest of a
    service, or of all for the total and storage, has less than a week, the method is TOO_SHORT. Growth is as in
    `month.outlook`.
    """
    firsts = [as_of.replace(day=1)]
    while len(firsts) < months:
        firsts.append((firsts[-1] + timedelta(days=31)).replace(day=1))
    arguments = (as_of, months, growth_percent_per_month)
    uploads, seen = look(stored.uploads, *arguments), [(line, look(line.history, *arguments)) for line in lines]
    found, days = [], _known_days(lines, stored, as_of)
    for number, first in enumerate(firsts):
        parts: dict[str, list[Values]] = defaultdict(list)
        shares: dict[str, list[Values]] = defaultdict(list)
        sources = [_storage_prices(stored, uploads, as_of, first)]
        parts[STORAGE].append(sources[0])
        methods = {STORAGE: f"stock and flow; uploads: {uploads.method if uploads else 'none known'}"}
        for line, ahead in seen:
            if ahead is None:
                continue
            used = [ahead.months[number].quantile(probability) for probability in _PROBABILITIES]
            priced = {service: np.array([price(each) for each in used]) for service, price in line.prices.items()}
            total = np.sum(list(priced.values()), axis=0)
            if line.part:
                shares[line.part].append(total)
                methods[line.part] = ahead.method
            if PART in priced:
                continue
            sources.append(total)
            for service, usd in priced.items():
                parts[service].append(usd)
                methods[service] = ahead.method
        methods[TOTAL] = "sum of services, each priced at R2's tariff"
        methods |= dict.fromkeys((name for name in methods if days[name] < _WEEK), TOO_SHORT)
        found.append(_joined(first, TOTAL, sources, methods[TOTAL]))
        found += [_joined(first, name, usd, methods[name]) for name, usd in (*parts.items(), *sorted(shares.items()))]
    return found


def _known_days(lines: Sequence[UsageLine], stored: Stored, as_of: date) -> Mapping[str, int]:
    """Count the days that are known of each service and part, and of anything for the total and storage.

    Uploads, whose days may be older than any count of ours, speak only where nothing else does.
    """
    days: dict[str, int] = defaultdict(int)
    named: list[tuple[pd.Series[float] | None, tuple[str, ...]]] = [(stored.uploads, ())]
    if lines:
        named = [(line.history, (*line.prices, line.part or TOTAL)) for line in lines]
    for history, names in named:
        known = 0 if history is None else sum(stamp.date() < as_of for stamp in history.dropna().index)
        for name in (TOTAL, STORAGE, *names):
            days[name] = max(days[name], known)
    return days


def look(
    history: "pd.Series[float] | None", as_of: date, months: int, growth_percent_per_month: float | None
) -> Outlook | None:
    """Return the outlook of one line; None without a history."""
    if history is None or not any(stamp.date() < as_of for stamp in history.dropna().index):
        return None
    return outlook(history, as_of, months, growth_percent_per_month)


def rows(costs: Sequence[Cost], as_of: datetime) -> list[CostForecast]:
    """Return costs as rows of the store, in micro-dollars."""
    found = []
    for cost in costs:
        mean, low80, high80, low95, high95 = (
            round(usd * MICRO) for usd in (cost.mean_usd, *cost.bounds[80], *cost.bounds[95])
        )
        found.append(CostForecast(cost.month, cost.service, as_of, mean, low80, high80, low95, high95, cost.method))
    return found


def expected_peaks(
    stored: Stored, uploads: Outlook | None, as_of: date, last: date, probability: float
) -> dict[date, int]:
    """Return the peaks of stored bytes up to `last`, including known ones, with uploads at this quantile."""
    days = [as_of + timedelta(days=number) for number in range((last - as_of).days + 1)]
    arriving = np.zeros(len(days))
    if uploads is not None:
        path = {stamp.date(): float(value) for stamp, value in zip(uploads.path.index, uploads.path, strict=True)}
        shift = {each.month: math.exp(each.log_shift(probability)) for each in uploads.months}
        arriving = np.array([path.get(day, 0.0) * shift[day.replace(day=1)] for day in days])
    ahead = (round(peak) for peak in daily_peaks(stored.stock, as_of, arriving))
    return {**stored.peaks, **dict(zip(days, ahead, strict=True))}


def _storage_prices(stored: Stored, uploads: Outlook | None, as_of: date, first: date) -> Values:
    """Price a month's storage at each probability."""
    size = monthrange(first.year, first.month)[1]
    cold, found = gb_months([stored.infrequent_bytes]), dict[Decimal, float]()
    prices = []
    for probability in _PROBABILITIES:
        peaks = expected_peaks(stored, uploads, as_of, first.replace(day=size), probability)
        months = gb_months([peak for day, peak in peaks.items() if day.replace(day=1) == first], size)
        if months not in found:
            found[months] = storage_usd(months, cold)
        prices.append(found[months])
    return np.array(prices)


def _joined(month: date, service: str, parts: Sequence[Values], method: str) -> Cost:
    """Combine the parts' costs at each probability into one distribution, with expected value and bounds."""
    means = [float(part[1:-1].mean()) for part in parts]
    mean_total, bounds = sum(means), {}
    for level in (80, 95):
        at = [_PROBABILITIES.index(round(0.5 - level / 200, 3)), _PROBABILITIES.index(round(0.5 + level / 200, 3))]
        below = _together([mean - float(part[at[0]]) for part, mean in zip(parts, means, strict=True)])
        above = _together([float(part[at[1]]) - mean for part, mean in zip(parts, means, strict=True)])
        bounds[level] = (max(0.0, mean_total - below), mean_total + above)
    return Cost(month, service, mean_total, bounds, method)


def _together(reaches: Sequence[float]) -> float:
    """Return the half-width of a sum, from those of its parts and their correlation."""
    independent = sum(max(0.0, reach) ** 2 for reach in reaches)
    correlated = sum(max(0.0, reach) for reach in reaches) ** 2
    return math.sqrt((1 - _TOGETHER) * independent + _TOGETHER * correlated)


@dataclass(frozen=True, slots=True)
class ForecastReport(RunReport):
    """The totals of the months, and suggested savings, in a line each."""

    as_of: datetime
    months: tuple[str, ...]
    savings: tuple[str, ...]


def totals(costs: Sequence[Cost]) -> tuple[str, ...]:
    """Describe each month's expected cost, and its 80 % range."""
    return tuple(
        f"{cost.month:%Y-%m}: {in_dollars(cost.mean_usd)}, "
        f"{'' if cost.method == TOO_SHORT else 'in 4 of 5 cases '}{cost.between(80)}"
        for cost in costs
        if cost.service == TOTAL
    )


def by_service(costs: Sequence[Cost]) -> Table:
    """Tabulate each month's expected cost by service, with its bands and method."""
    headings = ("month", "service", ">expected", ">80 %", ">95 %", "method")
    rows = [
        (
            f"{cost.month:%Y-%m}",
            cost.service or "total",
            in_dollars(cost.mean_usd),
            *(("-", "-") if cost.method == TOO_SHORT else map(cost.between, (80, 95))),
            cost.method,
        )
        for cost in costs
    ]
    return Table(headings, rows)


def in_dollars(amount: float) -> str:
    """Format dollars."""
    return dollars(amount * MICRO)
