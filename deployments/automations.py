"""Automations of Prefect's server: mark dead runs as crashed, repeat what an outage ended, and report failed runs."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from deployments.orchestration import HEARTBEAT_SECONDS
from reelkeeper.adapters.orchestrator import NEVER_BEGUN, name_at_prefect
from reelkeeper.errors import LeaseUnrenewed, StorageError, Unavailable
from reelkeeper.operations.alerts.alerts import NEVER_BEGAN_AFTER
from reelkeeper.rules.alerts.alerting import Trouble
from reelkeeper.rules.alerts.cadence import FLOWS

SILENT_FOR: Final = timedelta(seconds=3 * HEARTBEAT_SECONDS)
_BEGINNING: Final = {f"prefect.flow-run.{state}" for state in ("Pending", "Submitting", "InfrastructurePending")}
LATE_AFTER: Final = timedelta(minutes=10)
AGAIN_AFTER: Final = timedelta(minutes=2)  # by then the dead run's leases in the store have expired
# A tag in prefect.yaml, for flows whose next run is an hour or more away. Those that run every 5 or 15 minutes need no
# repeat: their next run comes about as soon as it would, and does what is left.
AGAIN: Final = "restart-after-crash"
_MESSAGE: Final = "prefect.state-message"  # a label of the events of runs
FAILED_BY: Final = "Flow run encountered an exception: "  # how Prefect begins that message, before the exception
EARLIER_NAMES: Final = {
    "Reelkeeper: crashed work runs again": "Reelkeeper: crashed daily work runs again",
    "Reelkeeper: work that an outage ended runs again": "Reelkeeper: daily work that an outage ended runs again",
}
_ANY: Final = {"prefect.flow-run.*"}
_RUNS: Final = {"prefect.resource.id": ["prefect.flow-run.*"]}
_ROLE: Final = "prefect.resource.role"
# guard outages.others_automations: on a server that others use as well, runs of theirs without a heartbeat are ended
_OURS: Final = {_ROLE: "flow", "prefect.resource.name": [name_at_prefect(flow) for flow in FLOWS]}
_EVENTS: Final = {
    Trouble.FAILED: {"prefect.flow-run.Failed", "prefect.flow-run.TimedOut"},
    Trouble.CRASHED: {"prefect.flow-run.Crashed"},
}
_PAYLOAD: Final = {  # Jinja templates that Prefect's server renders; each value becomes JSON
    "flow": "flow.name",
    "run_id": "flow_run.id | string",
    "run_name": "flow_run.name",
    "message": "flow_run.state.message",
    "url": "flow_run | ui_url",
    "is_manual_dry_run": "(not flow_run.deployment_id and flow_run.parameters.dry_run | default(false))",
}


def inner() -> Iterator[AutomationCore]:
    """Return the automations that need only Prefect's server."""
    yield AutomationCore(
        name="Reelkeeper: a silent run has crashed",
        description="Frees the slot of a run that missed three heartbeats: its process is gone.",
        trigger=_silence({"prefect.flow-run.Running", "prefect.flow-run.heartbeat"}, SILENT_FOR),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: the process that ran it is gone")],
    )
    yield AutomationCore(
        name="Reelkeeper: a run that never began has crashed",
        description="A run that a worker accepted and did not start.",
        trigger=_silence(_BEGINNING, NEVER_BEGAN_AFTER),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=NEVER_BEGUN)],
    )
    yield _again("crashed work runs again", Trouble.CRASHED, _RUNS)
    outages = [f"{FAILED_BY}{kind.__name__}:*" for kind in (Unavailable, LeaseUnrenewed, StorageError)]
    yield _again("work that an outage ended runs again", Trouble.FAILED, _RUNS | {_MESSAGE: outages})


def _again(name: str, trouble: Trouble, match: dict[str, list[str]]) -> AutomationCore:
    related = [_OURS, *({_ROLE: "tag", "prefect.resource.id": f"prefect.tag.{tag}"} for tag in _SCHEDULED_AGAIN)]
    return AutomationCore(
        name=f"Reelkeeper: {name}",
        description="Once, after two minutes, with the deployment's parameters; only runs that a schedule had started.",
        trigger=EventTrigger(expect=_EVENTS[trouble], match=match, match_related=related, posture=Posture.Reactive),
        actions=[RunDeployment(source="inferred", schedule_after=AGAIN_AFTER)],
    )


def telling(webhook_id: UUID) -> Iterator[AutomationCore]:
    """Return the automations that call Reelkeeper's API, through the Webhook block of this id."""
    for trouble, events in _EVENTS.items():
        yield AutomationCore(
            name=f"Reelkeeper: tell of {trouble} runs",
            description="Puts an alert into Reelkeeper's outbox.",
            trigger=EventTrigger(expect=events, match=_RUNS, match_related=[_OURS], posture=Posture.Reactive),
            actions=[CallWebhook(block_document_id=webhook_id, payload=_payload(trouble))],
        )
    yield AutomationCore(
        name="Reelkeeper: tell of late runs",
        description="Puts an alert into Reelkeeper's outbox when a run has been late for 10 minutes.",
        trigger=_silence({"prefect.flow-run.Late"}, LATE_AFTER),
        actions=[CallWebhook(block_document_id=webhook_id, payload=_payload(Trouble.LATE))],
    )


def put(client: SyncPrefectClient, wanted: AutomationCore) -> bool:
    """Create or update an automation; return whether anything changed.

    One that is up to date is not touched: an update would make it forget the runs that it waits for. One that a person
    has disabled stays disabled. One with its earlier name is renamed; beside the new one, it would start a run twice.
    """
    names = (wanted.name, EARLIER_NAMES.get(wanted.name))
    found = [each for name in names if name for each in client.read_automations_by_name(name)]
    if not found:
        client.create_automation(wanted)
        return True
    for other in found[1:]:
        client.delete_automation(other.id)
    present = AutomationCore.model_validate(found[0].model_dump(exclude={"id"}))
    wanted = wanted.model_copy(update={"enabled": present.enabled})
    if _essence(present) == _essence(wanted):
        return len(found) > 1
    written = wanted.model_dump(exclude={"owner_resource"})  # set by the server, not accepted from clients
    client.update_automation(found[0].id, AutomationCore.model_validate(written))
    return True


_SCHEDULED_AGAIN: Final = (AGAIN, "auto-scheduled")  # the second is Prefect's


def _silence(after: set[str], span: timedelta) -> EventTrigger:
    return EventTrigger(
        after=after,
        expect=_ANY,
        match=_RUNS,
        match_related=[_OURS],
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=span,
    )


def _payload(trouble: Trouble) -> str:
    values = ", ".join(f'"{name}": {{{{ {value} | tojson }}}}' for name, value in _PAYLOAD.items())
    return f'{{"trouble": {json.dumps(trouble)}, {values}}}'


def _essence(automation: AutomationCore) -> object:
    return automation.model_dump(
        include={"name", "description", "trigger", "actions"}
    )  # not compared as JSON, since sets have no order
