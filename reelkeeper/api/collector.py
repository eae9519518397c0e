"""Collect the state of the whole service for Prometheus, from the same queries as `reelkeeper status`.

Names and units follow Prometheus's conventions: seconds, bytes, dollars; `_total` only grows. A test compares the table
of docs/monitoring.md with these metrics.
"""

import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from reelkeeper.model.money import MICRO, NANO
from reelkeeper.operations import Engine, now, reading
from reelkeeper.operations.health.status import Money, Status, gather
from reelkeeper.operations.jobs.lanes import Vendor, picture
from reelkeeper.rules.billing.tariff import class_of
from reelkeeper.store.billing import usage
from reelkeeper.store.core import controls, schema
from reelkeeper.store.sync import scans

KEPT_SECONDS: Final = 300.0  # cache time of expensive sums, which change only with the hourly flows
_Values = Iterable[tuple[Sequence[str], float]]


@dataclass(frozen=True, slots=True)
class _Kept:
    """Expensive figures, cached between scrapes."""

    until: float
    money: Money
    rows: dict[str, int]
    operations: dict[str, int]


class Service(Collector):
    """Collects the metrics from one snapshot of the store at each scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._kept: _Kept | None = None

    def describe(self) -> list[Metric]:
        """Announce no metrics, so that the store is not read before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        with self._lock:
            kept = self._kept if self._kept and time.monotonic() < self._kept.until else None
            found = gather(self._engine, money=kept.money if kept else None)
            with reading(self._engine) as session:
                size_bytes, vendors = schema.size_bytes(session), picture(session)
                events = controls.fresh(session, scans.BUCKET_EVENTS, scans.RETAINED_SECONDS)
                if kept is None:
                    day = now(session).date()
                    counts = schema.rows(session), usage.operations(session, day.replace(day=1), day)
                    kept = self._kept = _Kept(time.monotonic() + KEPT_SECONDS, found.money, *counts)
        about = {"version": version("reelkeeper"), "schema": schema.head(), "python": platform.python_version()}
        yield _gauge("reelkeeper_build_info", "1; the labels say what runs", (*about,), [((*about.values(),), 1.0)])
        yield from _flows(found)
        yield from _videos(found)
        yield from _work(found)
        yield from _vendors(vendors)
        yield from _money(found.money)
        if events:
            yield from _events(events)
        yield _gauge("reelkeeper_store_rows", "Rows by table", ("table",), [((n,), c) for n, c in kept.rows.items()])
        yield _one("reelkeeper_store_bytes", "Bytes of the store on disk", size_bytes)
        operations = CounterMetricFamily(
            "reelkeeper_r2_operations", "Operations on the bucket by Reelkeeper this month", labels=("action", "class")
        )
        for action, count in kept.operations.items():
            operations.add_metric((action, class_of(action) or "free"), count)
        yield operations


def _events(state: Mapping[str, Any]) -> Iterator[Metric]:
    """Report how far R2's event notifications have been processed."""
    handled = CounterMetricFamily(
        "reelkeeper_events_handled",
        "Messages of R2's event queue, and the objects that they named, by outcome",
        labels=("outcome",),
    )
    for outcome, count in state["counts"].items():
        handled.add_metric((outcome,), count)
    yield handled
    if state["backlog"] is not None:
        yield _one("reelkeeper_events_waiting", "Messages still in the event queue", state["backlog"])
    if state["caught_up_at"]:
        at = datetime.fromisoformat(state["caught_up_at"]).timestamp()
        yield _one("reelkeeper_events_caught_up_timestamp_seconds", "When the event queue was last seen empty", at)


def _flows(found: Status) -> Iterator[Metric]:
    beaten = [flow for flow in found.flows if flow.last_ok_at]
    yield _gauge(
        "reelkeeper_flow_last_success_timestamp_seconds",
        "When a flow last succeeded",
        ("flow",),
        [((flow.flow,), flow.last_ok_at.timestamp()) for flow in beaten if flow.last_ok_at],
    )
    yield _gauge(
        "reelkeeper_flow_last_duration_seconds",
        "Duration of that run",
        ("flow",),
        [((flow.flow,), flow.run_seconds) for flow in beaten if flow.run_seconds is not None],
    )
    late = [((flow.flow,), float(flow.is_overdue)) for flow in found.flows]
    yield _gauge("reelkeeper_flow_overdue", "1 while a flow has not succeeded in time", ("flow",), late)


def _videos(found: Status) -> Iterator[Metric]:
    by_state = found.videos.items()
    yield _gauge("reelkeeper_videos", "Videos by state", ("state",), [((name,), c) for name, (c, _) in by_state])
    yield _gauge(
        "reelkeeper_videos_bytes", "Bytes of videos by state", ("state",), [((name,), s) for name, (_, s) in by_state]
    )
    yield _gauge(
        "reelkeeper_backlog_videos",
        "Videos of a flow's last plan that are not done yet",
        ("flow", "action"),
        [((backlog.flow, backlog.action), backlog.objects + backlog.left_to_next_run) for backlog in found.backlog],
    )
    yield _one("reelkeeper_retired_blobs", "Blobs waiting to be purged", found.grace.objects)
    yield _one("reelkeeper_retired_bytes", "Bytes waiting to be purged", found.grace.size_bytes)
    if found.grace.next_at:
        first = found.grace.next_at.timestamp()
        yield _one("reelkeeper_next_purge_timestamp_seconds", "When the first of them can be purged", first)


def _work(found: Status) -> Iterator[Metric]:
    queue, box, cache = found.queue, found.outbox, found.cache
    yield _gauge("reelkeeper_jobs", "Jobs by state", ("state",), [((name,), c) for name, c in queue.jobs.items()])
    yield _one(
        "reelkeeper_oldest_wait_seconds", "How long the oldest waiting job has waited", queue.oldest_wait_seconds
    )
    if queue.jobs_at_once is not None:
        yield _one("reelkeeper_jobs_limit", "Maximum number of jobs at once", queue.jobs_at_once)
    yield _gauge(
        "reelkeeper_provider_unwell",
        "1 while a provider gets no new jobs, or only a few to test it",
        ("provider",),
        [((health.provider,), 1.0) for health in found.providers],
    )
    yield _one("reelkeeper_cache_entries", "Videos in the cache of results", cache.entries)
    yield _one("reelkeeper_cache_entries_hits", "Hits of the current entries", cache.hits)
    yield _one("reelkeeper_messages_waiting", "Messages not delivered yet", box.waiting)
    yield _one("reelkeeper_messages_oldest_seconds", "How long the oldest of them has waited", box.oldest_seconds)
    firing = Counter(str(alert.severity) for alert in (*found.alerts, *found.levers))
    yield _gauge(
        "reelkeeper_alerts", "Firing alerts by severity", ("severity",), [((name,), c) for name, c in firing.items()]
    )
    yield _one("reelkeeper_frozen", "1 while changes are stopped", float(found.frozen is not None))


def _vendors(vendors: Sequence[Vendor]) -> Iterator[Metric]:
    yield _gauge(
        "reelkeeper_provider_jobs",
        "Jobs that a provider has (running), or may have (parked)",
        ("provider", "state"),
        [
            ((of.provider, state), float(jobs))
            for of in vendors
            for state, jobs in (("running", of.running), ("parked", of.parked))
        ],
    )
    yield _gauge(
        "reelkeeper_provider_state",
        "1 for the present state of a provider: open, full, held, trial or failing",
        ("provider", "state"),
        [((of.provider, of.state), 1.0) for of in vendors],
    )
    values: tuple[tuple[str, str, Callable[[Vendor], float | Decimal | None]], ...] = (
        (
            "jobs_limit",
            "Jobs that a provider may have at once: by its cap, as tuned, and as accepted",
            lambda of: of.limit,
        ),
        (
            "held_until_timestamp_seconds",
            "Until when a provider that asked us to wait gets fewer jobs",
            lambda of: of.held_until.timestamp() if of.held_until else None,
        ),
        (
            "budget_left_dollars",
            "What the tightest budget of a provider leaves for new jobs",
            lambda of: of.budget_left_microusd and of.budget_left_microusd / 10**6,
        ),
        (
            "dollars_per_second",
            "Price of a second of 720p of a provider's cheapest model",
            lambda of: of.usd_per_second,
        ),
    )
    for name, what, value in values:
        known = [((of.provider,), float(found)) for of in vendors if (found := value(of)) is not None]
        yield _gauge(f"reelkeeper_provider_{name}", what, ("provider",), known)


def _money(money: Money) -> Iterator[Metric]:
    spent = (("day", money.today_nanousd), ("month", money.month_nanousd))
    may = (("day", money.budget.daily_usd), ("month", money.budget.monthly_usd))
    yield _gauge(
        "reelkeeper_spend_dollars",
        "Spend of the day and of the month",
        ("period",),
        [((period,), float(nanousd / NANO)) for period, nanousd in spent],
    )
    yield _gauge(
        "reelkeeper_budget_dollars",
        "Budget of the day and of the month",
        ("period",),
        [((period,), float(usd)) for period, usd in may if usd is not None],
    )
    named = [(use, (use.scope, str(use.period))) for use in money.limits]
    yield _gauge(
        "reelkeeper_spend_limit_dollars",
        "Spend limit of all jobs, or of a provider, model, tier or user",
        ("scope", "period"),
        [(labels, use.limit_microusd / MICRO) for use, labels in named],
    )
    yield _gauge(
        "reelkeeper_spend_limit_used_dollars",
        "Used part of that limit, including jobs in flight at their price",
        ("scope", "period"),
        [(labels, use.used_microusd / MICRO) for use, labels in named],
    )
    yield CounterMetricFamily("reelkeeper_freed_bytes", "Bytes deleted by purges", money.freed_bytes)
    saved = float(money.saved_nanousd / NANO)
    yield CounterMetricFamily(
        "reelkeeper_saved_dollars", "What those bytes would have cost since then, at list price", saved
    )


def _one(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value)


def _gauge(name: str, what: str, labels: Sequence[str], values: _Values) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for each, value in values:
        family.add_metric(each, value)
    return family
