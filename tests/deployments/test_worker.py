"""Of several missed runs, the worker runs only the latest."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from prefect.client.schemas.objects import FlowRun

from deployments.pools import superseded
from deployments.worker import running_beside

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
