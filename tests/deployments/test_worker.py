"""Of several missed runs, the worker runs only the latest; it is well while its server or its store is away."""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun

from deployments.machine import Machine
from deployments.pools import superseded
from deployments.worker import Worker, running_beside
from reelkeeper.errors import DiskFull, Unavailable

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DEPLOYMENT = uuid4()


def due(minutes: int, *, deployment: UUID = DEPLOYMENT, asked: bool = False, **parameters: object) -> FlowRun:
    return FlowRun(
        flow_id=uuid4(),
        deployment_id=deployment,
        expected_start_time=NOON + timedelta(minutes=minutes),
        auto_scheduled=not asked,
        parameters=parameters,
    )


def test_runs_superseded_by_a_later_one_of_the_same_schedule_are_skipped() -> None:
    runs = [due(10), due(0), due(5)]
    assert superseded(runs) == {runs[1].id, runs[2].id}
    assert superseded([due(0)]) == set()
    twins = [due(0), due(0), due(5), due(5)]  # two schedules, whose runs share the queue
    assert superseded(twins) == {twins[0].id, twins[1].id}


def test_deployments_and_schedules_with_other_parameters_are_apart() -> None:
    assert superseded([due(0), due(5, deployment=uuid4()), due(5, dry_run=True)]) == set()


def test_runs_requested_by_a_person_are_never_skipped() -> None:
    runs = [due(0, asked=True), due(5), due(7, asked=True)]
    assert superseded(runs) == set()


def test_background_services_end_in_order_with_the_worker() -> None:
    said: list[str] = []

    def act(stop: threading.Event) -> None:
        said.append("begun")
        stop.wait(30)
        said.append("ended")

    with running_beside(act) as stop:
        assert not stop.is_set()
    assert said == ["begun", "ended"]


@pytest.mark.parametrize("away", [httpx.ConnectError("refused"), Unavailable("no store"), None], ids=repr)
def test_a_worker_that_asks_in_vain_or_drains_is_not_restarted(
    away: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker("main", 1)
    worker.is_draining = away is None
    worker._has_successfully_synced = True
    worker._last_polled_time -= timedelta(hours=1)
    assert not worker.is_worker_still_polling(7)

    async def ask() -> None:
        raise away or AssertionError

    monkeypatch.setattr(worker, "_get_scheduled_flow_runs", ask)
    assert asyncio.run(worker.get_and_submit_flow_runs()) == []
    assert worker.is_worker_still_polling(7)


def resting(act: Callable[[str], bool]) -> Worker:
    """A worker whose machine says by `act` whether it may rest."""

    async def read_flow(_: UUID) -> SimpleNamespace:
        return SimpleNamespace(name="dispatch-jobs")

    worker = Worker("main", 1, cast("Machine", SimpleNamespace(may_rest=act)))
    worker._client = cast("Any", SimpleNamespace(read_flow=read_flow))
    return worker


def test_a_worker_goes_on_where_a_full_disk_keeps_it_from_recording_that_it_rests() -> None:
    def act(_: str) -> bool:
        raise DiskFull("the store's disk is full")

    assert asyncio.run(resting(act)._is_left_out(due(0, dry_run=False))) is False, "the run begins, and says so"
