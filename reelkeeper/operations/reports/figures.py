"""Draw the charts of a month, the same for the page, Slack and Prefect."""

from collections import Counter
from collections.abc import Mapping
from datetime import date

import pandas as pd

from reelkeeper.adapters import charts
from reelkeeper.adapters.charts import Picture
from reelkeeper.model.money import CostForecast, end_of_month
from reelkeeper.operations.reports.report import TOTAL, MonthReport

_NANO, _MICRO = 10**9, 10**6
_LEVELS = {80: ("lower80_microusd", "upper80_microusd"), 95: ("lower95_microusd", "upper95_microusd")}


def spend(report: MonthReport, *, title: str = "") -> Picture:
    """Draw each day's bill by service, against the daily budget."""
    rows = [(spending.day, spending.service, spending.billed_nanousd / _NANO) for spending in report.spent]
    budget = report.budgets.daily_usd
    daily = pd.DataFrame(rows, columns=["day", "service", "usd"])
    return charts.spend(daily, None if budget is None else float(budget), title=title)


def month(report: MonthReport, *, title: str = "") -> Picture:
    """Draw the month's cumulative bill by day and its forecast, against the monthly budget."""
    daily: Counter[date] = Counter()
    for spending in report.spent:
        daily[spending.day] += spending.billed_nanousd
    so_far = _series({day: amount / _NANO for day, amount in sorted(daily.items())}).cumsum()
    expected = [report.this_month] if report.this_month else []
    mean, bands = _forecast({end_of_month(report.month): forecast for forecast in expected})
    return charts.forecast_fan(so_far, mean, bands, _monthly(report), title=title)


def months(report: MonthReport) -> Picture | None:
    """Draw the bills of earlier months and the expected ones; None where there are too few."""
    expected = {forecast.month: forecast for forecast in report.expected if forecast.service == TOTAL}
    past = {day: amount / _NANO for day, amount in report.months.items() if day not in expected}
    if not report.is_over and not expected:
        past.pop(report.month, None)  # not over, and without a forecast
    if len(past) + len(expected) < 3:  # noqa: PLR2004  two points are a line and no picture
        return None
    mean, bands = _forecast(expected)
    return charts.forecast_fan(_series(past), mean, bands, _monthly(report))


def storage(report: MonthReport, *, title: str = "") -> Picture:
    """Draw the stored bytes, by age of the video and tier of its owner."""
    rows = [(stock.age, stock.tier, stock.size_bytes) for stock in report.stock]
    return charts.storage(pd.DataFrame(rows, columns=["age", "tier", "size_bytes"]), report.tiers, title=title)


def savings(report: MonthReport, *, title: str = "") -> Picture:
    """Draw the dollars saved so far, by kind of saving."""
    rows = [(saving.day, saving.kind, saving.nanousd / _NANO) for saving in report.saved]
    return charts.savings(pd.DataFrame(rows, columns=["day", "kind", "usd"]), title=title, has_freed=bool(report.freed))


def _forecast(expected: Mapping[date, CostForecast]) -> tuple["pd.Series[float]", dict[int, pd.DataFrame]]:
    mean = _series({day: forecast.mean_microusd / _MICRO for day, forecast in expected.items()})
    ranged = {day: forecast for day, forecast in expected.items() if forecast.has_range}
    bands = {
        level: pd.DataFrame(
            {
                "lower": _series({day: getattr(forecast, lower) / _MICRO for day, forecast in ranged.items()}),
                "upper": _series({day: getattr(forecast, upper) / _MICRO for day, forecast in ranged.items()}),
            }
        )
        for level, (lower, upper) in _LEVELS.items()
    }
    return mean, bands if ranged else {}


def _series(points: Mapping[date, float]) -> "pd.Series[float]":
    return pd.Series(list(points.values()), index=pd.to_datetime(list(points)), dtype=float)


def _monthly(report: MonthReport) -> float | None:
    budget = report.budgets.monthly_usd
    return None if budget is None else float(budget)
