"""Compute performance figures of the jobs that ended in a window of time, and of waiting ones. Pure.

Means hide tails, so each comes with percentiles, by the nearest rank: values that occurred. A job counts in the
window in which it ended. Waits and processing times are those of jobs that ran; cache hits and followers would
lower them, and count only in their own rates. Unknown is None, not zero.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import Filled, FinishedJob, InFlight, Window

WINDOW_SECONDS: Final = 900  # as often as `monitor_performance` runs
JUDGED_MINUTES: Final = 60  # whose ended jobs are judged: four windows
FEWEST_JOBS: Final = 10  # for which a mean or a rate is judged: of fewer, one job is a tenth and more
LOOKED_BACK: Final = timedelta(days=1)  # missing windows are computed for this time
UNKNOWN: Final = "unknown"  # the name for an unknown tier
_PERCENTILES: Final = (50, 95, 99)
_FULL: Final = 100  # percent
Figures = dict[str, float | None]  # named with their units; None: unknown


class PerformancePolicy(BaseModel):
    """Limits on slow, expensive, queued and failed jobs and on storage; never: no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_processing_seconds: float | None = Field(
        300, gt=0, description="Maximum mean processing time of a job, in seconds, without waiting"
    )
    max_cost_microusd: int | None = Field(20_000, gt=0, description="Maximum mean cost of a job, in micro-dollars")
    max_storage_percent: float | None = Field(80, gt=0, description="Maximum use of the storage budget, in percent")
    storage_budget_bytes: int | None = Field(
        None, gt=0, description="Storage budget of all users, in bytes; unset: the sum of the users' quotas"
    )
    min_success_percent: float | None = Field(
        90, gt=0, le=100, description="Minimum success rate of the jobs that ran, in percent"
    )
    max_wait_seconds: float | None = Field(3600, gt=0, description="Maximum wait of the oldest waiting job, in seconds")


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile: the smallest value that `percent` of the values do not exceed. `values` holds at least one.

    >>> percentile([4, 1, 3, 2], 50), percentile([4, 1, 3, 2], 95)
    (2, 4)
    """
    ranked = sorted(values)
    return ranked[max(math.ceil(len(ranked) * percent / _FULL), 1) - 1]


def figures(ended: Sequence[FinishedJob]) -> Figures:
    """Compute the figures of jobs that ended."""
    made = [job for job in ended if job.is_made]
    run = [job for job in ended if job.started_at is not None and not job.is_follower]
    dead = sum(job.state is JobState.DEAD for job in ended)
    hits = sum(job.is_hit for job in ended)
    joined = sum(job.is_follower and job.state is JobState.SUCCEEDED for job in ended)
    costs = [job.cost_microusd for job in run if job.cost_microusd is not None]
    waits = [max((job.started_at - job.created_at).total_seconds(), 0.0) for job in run if job.started_at]
    took = [job.processing_seconds for job in made if job.processing_seconds is not None]
    return {
        "ended": len(ended),
        "made": len(made),
        "dead": dead,
        "cancelled": sum(job.state is JobState.CANCELLED for job in ended),
        "cache_hits": hits,
        "joined": joined,
        "success_percent": _share(len(made), len(made) + dead),
        "cache_hit_percent": _share(hits, hits + joined + len(made)),
        **_spread("wait", waits),
        **_spread("processing", took),
        "cost_mean_microusd": fmean(costs) if costs else None,
        "cost_known_jobs": len(costs),
    }


def waiting(in_flight: Sequence[InFlight], as_of: datetime) -> Figures:
    """Compute the length and age of the queue. A follower waits for another job's video, not in the queue."""
    queued = [flight for flight in in_flight if flight.state is JobState.QUEUED]
    oldest = min((flight.oldest_at for flight in queued), default=as_of)
    return {
        "queued": sum(flight.jobs for flight in queued),
        "queued_estimate_seconds": sum(flight.estimate_seconds for flight in queued),
        "oldest_wait_seconds": max((as_of - oldest).total_seconds(), 0.0),
        "running": sum(flight.jobs for flight in in_flight if flight.state is JobState.RUNNING),
        "parked": sum(flight.jobs for flight in in_flight if flight.state is JobState.PARKED),
    }


def by_group(ended: Iterable[FinishedJob]) -> dict[tuple[str, str], list[FinishedJob]]:
    """Group jobs: each is in the group of all, ("", ""), of its tier, and of its model."""
    groups: dict[tuple[str, str], list[FinishedJob]] = defaultdict(list, {("", ""): []})
    for job in ended:
        for group in (("", ""), (job.tier or UNKNOWN, ""), ("", job.model)):
            groups[group].append(job)
    return dict(groups)


def windows(ended: Sequence[FinishedJob], last: datetime | None, as_of: datetime) -> list[Window]:
    """Compute each whole window after the one that began at `last`, up to `as_of`; at most a day's."""
    end = window_start(as_of)
    first = first_window(last, as_of)
    inside: dict[datetime, list[FinishedJob]] = defaultdict(list)
    for job in ended:
        inside[window_start(job.finished_at)].append(job)
    found = []
    for number in range(int((end - first).total_seconds()) // WINDOW_SECONDS):
        start = first + timedelta(seconds=number * WINDOW_SECONDS)
        groups = by_group(inside.get(start, []))
        found += [Window(start, WINDOW_SECONDS, *group, figures(jobs)) for group, jobs in groups.items()]
    return found


def with_present(
    found: Sequence[Window], in_flight: Sequence[InFlight], filled: Filled | None, as_of: datetime
) -> list[Window]:
    """Add the present figures to the last window: the queue of each group, and the stored bytes."""
    if not found:
        return []
    last = max(window.start_at for window in found)
    present = {(window.tier, window.model): window.figures for window in found if window.start_at == last}
    groups = {("", "")} | present.keys()
    groups |= {(flight.tier or UNKNOWN, "") for flight in in_flight} | {("", flight.model) for flight in in_flight}
    newest = []
    for tier, model in sorted(groups):
        group = [flight for flight in in_flight if tier in ("", flight.tier or UNKNOWN) and model in ("", flight.model)]
        more = waiting(group, as_of)
        if filled and not tier and not model:
            more |= {
                "stored_bytes": filled.used_bytes,
                "storage_percent": _share(filled.used_bytes, filled.limit_bytes),
            }
        newest.append(Window(last, WINDOW_SECONDS, tier, model, present.get((tier, model), figures([])) | more))
    return [*(window for window in found if window.start_at != last), *newest]


def window_start(at: datetime) -> datetime:
    """Return the start of the window that contains `at`: a quarter of an hour in UTC."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % WINDOW_SECONDS, UTC)


def first_window(last: datetime | None, as_of: datetime) -> datetime:
    """Return the start of the next window to record, after the one that began at `last`."""
    oldest = window_start(as_of - LOOKED_BACK)
    if last is None:
        return window_start(as_of) - timedelta(seconds=WINDOW_SECONDS)
    return max(last + timedelta(seconds=WINDOW_SECONDS), oldest)


def _spread(name: str, values: Sequence[float]) -> Figures:
    spread = {f"{name}_p{percent}_seconds": percentile(values, percent) if values else None for percent in _PERCENTILES}
    return {f"{name}_mean_seconds": fmean(values) if values else None, **spread}


def _share(part: float, whole: float) -> float | None:
    return _FULL * part / whole if whole else None
