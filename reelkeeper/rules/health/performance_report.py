"""Format performance figures for people. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from reelkeeper.model.document import RunReport
from reelkeeper.model.performance import FinishedJob
from reelkeeper.rules.health.performance import by_group, figures

_TENTHS_BELOW: Final = 10  # seconds
_MINUTES_FROM: Final = 600  # seconds


class PerformanceLine(NamedTuple):
    """Formatted figures of all jobs, a tier or a model."""

    of: str
    ended: str
    succeeded: str
    wait: str  # mean, and the 95th percentile
    processing: str  # the same
    cost: str
    cache_hits: str


@dataclass(frozen=True, slots=True)
class PerformanceReport(RunReport):
    """The result of a run of `monitor_performance`. `found` are the findings in a line each, the worst first."""

    as_of: datetime
    ended: int  # in the evaluated time
    mean_wait: str
    mean_processing: str
    succeeded: str
    mean_cost: str
    queued: int
    oldest_wait: str
    storage: str
    found: tuple[str, ...]
    windows: int = 0  # quarters of an hour recorded
    news: int = 0  # new alerts
    over: int = 0  # resolved alerts


def lines(ended: Sequence[FinishedJob]) -> list[PerformanceLine]:
    """List the figures: of all jobs, then by model and by tier."""
    return [
        line(f"tier {tier}" if tier else f"model {model}" if model else "all", figures(jobs))
        for (tier, model), jobs in sorted(by_group(ended).items())
    ]


def line(of: str, found: Mapping[str, float | None]) -> PerformanceLine:
    """Format the figures of a group."""
    wait, processing = (
        " / ".join(seconds(found.get(f"{name}_{kind}_seconds")) for kind in ("mean", "p95"))
        for name in ("wait", "processing")
    )
    return PerformanceLine(
        of,
        f"{found.get('ended') or 0:,.0f}",
        percent(found.get("success_percent")),
        wait,
        processing,
        money(found.get("cost_mean_microusd")),
        percent(found.get("cache_hit_percent")),
    )


def seconds(value: float | None) -> str:
    """Format a duration: seconds, or minutes if there are many."""
    if value is None:
        return "-"
    if value < _TENTHS_BELOW:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < _MINUTES_FROM else f"{value / 60:.0f} min"


def percent(value: float | None) -> str:
    """Format a share."""
    return "-" if value is None else f"{value:.0f} %"


def money(microusd: float | None) -> str:
    """Format the cost of a job in dollars, to a hundredth of a cent."""
    return "-" if microusd is None else f"${microusd / 10**6:,.4f}"
