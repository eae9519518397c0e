"""The sign of life that a flow gives when it has succeeded; `reelkeeper watchdog` listens for it."""

from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow

from reelkeeper.operations import open_store
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.health import watchdog
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.settings import settings


def beat(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Note the success of a run that may change things: a hook of every flow. A dry run proves nothing.

    What was told of earlier runs that went wrong is over with it.
    """
    if flow_run.parameters.get("dry_run", True):
        return
    name = flow.fn.__name__
    took = state.timestamp - flow_run.start_time if flow_run.start_time else None
    with open_store(settings()) as engine:
        watchdog.beat(
            engine,
            name,
            run_id=str(flow_run.id),
            run_seconds=took.total_seconds() if took else None,
            **CADENCES[name]._asdict(),
        )
        alerts.observe(engine, [], rules=alerting.RULES, scope=alerting.scope(name), run_id=str(flow_run.id))
