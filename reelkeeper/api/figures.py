"""Figures for Prometheus: what was asked of this process, and where the whole service stands."""

import time
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.engine import Engine
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelkeeper.model.jobs import JobState
from reelkeeper.store import outbox
from reelkeeper.store.engine import Clock, reading
from reelkeeper.store.tables import blobs, cache_entries, deployment, jobs, videos

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Requests:
    """The outermost middleware: counts and times every answer, by the route's pattern and never by the path asked."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._answers = Counter(
            "reelkeeper_http_answers", "Answers by route and status", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "reelkeeper_http_seconds",
            "Seconds until the answer was sent",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._answers.labels(method, route, str(status)).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - began)


_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class Service(Collector):
    """Reads where the service stands from one snapshot of the store, when Prometheus asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> list[GaugeMetricFamily]:
        """Name nothing beforehand: the store is not asked before Prometheus asks."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give the gauges."""
        with reading(self._engine) as session:
            size = sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0)
            stock = session.execute(
                sa.select(videos.c.state, sa.func.count(), size)
                .select_from(videos.outerjoin(blobs, blobs.c.id == videos.c.blob_id))
                .group_by(videos.c.state)
            ).all()
            by_state = session.execute(
                sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state).order_by(jobs.c.state)
            ).all()
            oldest, at = session.execute(
                sa.select(
                    sa.select(sa.func.min(jobs.c.created_at))
                    .where(jobs.c.state == JobState.QUEUED, jobs.c.leader_id.is_(None))
                    .scalar_subquery(),
                    Clock(),
                )
            ).one()
            entries, hits = session.execute(
                sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(cache_entries.c.hits), 0))
            ).one()
            waiting, _ = outbox.count_waiting(session)
            frozen = session.execute(sa.select(deployment.c.frozen_at)).scalar_one() is not None
        yield _gauge("reelkeeper_videos", "Videos by state", [((state,), count) for state, count, _ in stock])
        yield _gauge(
            "reelkeeper_videos_bytes", "Their present bytes", [((state,), float(total)) for state, _, total in stock]
        )
        yield _gauge("reelkeeper_jobs", "Jobs by state", [((state,), count) for state, count in by_state])
        waited = max(0.0, (at - oldest).total_seconds()) if oldest else 0.0
        yield GaugeMetricFamily("reelkeeper_oldest_wait_seconds", "How long the oldest waiting job waits", waited)
        yield GaugeMetricFamily("reelkeeper_cache_entries", "Videos that can be given again", entries)
        yield GaugeMetricFamily("reelkeeper_cache_entries_hits", "Hits of the entries that are there", float(hits))
        yield GaugeMetricFamily("reelkeeper_messages_waiting", "Messages that were not handed over yet", waiting)
        yield GaugeMetricFamily("reelkeeper_frozen", "1 while changes are stopped", float(frozen))


def _gauge(name: str, what: str, values: list[tuple[tuple[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=("state",))
    for labels, value in values:
        family.add_metric(labels, value)
    return family
