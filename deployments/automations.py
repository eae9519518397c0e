"""What Prefect's server does by itself: it ends dead runs, runs daily work again, and tells us what went wrong."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from reelkeeper.cli.orchestration import HEARTBEAT_SECONDS
from reelkeeper.rules.alerts.alerting import Trouble

SILENT_FOR: Final = timedelta(seconds=3 * HEARTBEAT_SECONDS)
NEVER_BEGAN_AFTER: Final = timedelta(minutes=5)  # from Pending; a cluster may have to fetch an image first
LATE_AFTER: Final = timedelta(minutes=10)
AGAIN_AFTER: Final = timedelta(minutes=2)  # the dead run's leases in the store have ended by then
AGAIN: Final = "restart-after-crash"  # the tag, in prefect.yaml, of what would else wait for a day or more
_ANY: Final = {"prefect.flow-run.*"}
_RUNS: Final = {"prefect.resource.id": ["prefect.flow-run.*"]}
_EVENTS: Final = {
    Trouble.FAILED: {"prefect.flow-run.Failed", "prefect.flow-run.TimedOut"},
    Trouble.CRASHED: {"prefect.flow-run.Crashed"},
}
_PAYLOAD: Final = {  # Jinja, by Prefect's server: each value becomes JSON there
    "flow": "flow.name",
    "run_id": "flow_run.id | string",
    "run_name": "flow_run.name",
    "message": "flow_run.state.message",
    "url": "flow_run | ui_url",
}


def inner() -> Iterator[AutomationCore]:
    """Give those that need nothing but Prefect's server."""
    yield AutomationCore(
        name="Reelkeeper: a silent run has crashed",
        description="A run that gave no sign of life for three heartbeats: its process is gone, its slot is freed.",
        trigger=_silence({"prefect.flow-run.Running", "prefect.flow-run.heartbeat"}, SILENT_FOR),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message="No sign of life: the process that ran it is gone")
        ],
    )
    yield AutomationCore(
        name="Reelkeeper: a run that never began has crashed",
        description="A run that a worker took and did not start.",
        trigger=_silence({"prefect.flow-run.Pending"}, NEVER_BEGAN_AFTER),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="A worker took it, and never started it")],
    )
    tags = [{"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"} for tag in _SCHEDULED_AGAIN]
    yield AutomationCore(
        name="Reelkeeper: crashed daily work runs again",
        description="Once, after two minutes, with the deployment's own parameters; only what a schedule had started.",
        trigger=EventTrigger(
            expect=_EVENTS[Trouble.CRASHED], match=_RUNS, match_related=[*tags], posture=Posture.Reactive
        ),
        actions=[RunDeployment(source="inferred", schedule_after=AGAIN_AFTER)],
    )


def telling(webhook_id: UUID) -> Iterator[AutomationCore]:
    """Give those that call our API, through the Webhook block of this id."""
    for trouble, events in _EVENTS.items():
        yield AutomationCore(
            name=f"Reelkeeper: tell of {trouble} runs",
            description="Puts an alert into Reelkeeper's outbox.",
            trigger=EventTrigger(expect=events, match=_RUNS, posture=Posture.Reactive),
            actions=[CallWebhook(block_document_id=webhook_id, payload=_payload(trouble))],
        )
    yield AutomationCore(
        name="Reelkeeper: tell of late runs",
        description="Puts an alert into Reelkeeper's outbox when a run has not begun 10 minutes after it was late.",
        trigger=_silence({"prefect.flow-run.Late"}, LATE_AFTER),
        actions=[CallWebhook(block_document_id=webhook_id, payload=_payload(Trouble.LATE))],
    )


def put(client: SyncPrefectClient, wanted: AutomationCore) -> bool:
    """Make an automation, or bring it up to date; says whether there was anything to do.

    One that is as it should be is not touched: an update would make it forget the runs that it waits for. One that a
    person has disabled stays so.
    """
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return True
    present = AutomationCore.model_validate(found[0].model_dump(exclude={"id"}))
    wanted = wanted.model_copy(update={"enabled": present.enabled})
    if _essence(present) == _essence(wanted):
        return False
    written = wanted.model_dump(exclude={"owner_resource"})  # which the server takes from nobody
    client.update_automation(found[0].id, AutomationCore.model_validate(written))
    return True


_SCHEDULED_AGAIN: Final = (AGAIN, "auto-scheduled")  # the second is Prefect's


def _silence(after: set[str], span: timedelta) -> EventTrigger:
    return EventTrigger(
        after=after,
        expect=_ANY,
        match=_RUNS,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=span,
    )


def _payload(trouble: Trouble) -> str:
    values = ", ".join(f'"{name}": {{{{ {value} | tojson }}}}' for name, value in _PAYLOAD.items())
    return f'{{"trouble": {json.dumps(trouble)}, {values}}}'


def _essence(automation: AutomationCore) -> object:
    return automation.model_dump(include={"description", "trigger", "actions"})  # not as JSON: sets have no order
