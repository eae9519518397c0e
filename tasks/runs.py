"""What a flow run knows of itself."""

from datetime import UTC, datetime
from uuid import uuid4

from prefect import runtime
from pydantic import AwareDatetime, TypeAdapter

_MOMENT = TypeAdapter[datetime](AwareDatetime)  # a parameter may still be text


def run_id() -> str:
    """Name this run in the catalogue and in the audit record: Prefect's id of the flow run, or a new one."""
    return str(runtime.flow_run.id or uuid4().hex)


def scheduled_time() -> datetime:
    """When this run was due, in aware UTC: a run that starts late judges as it would have done in time."""
    return datetime.fromtimestamp(runtime.flow_run.scheduled_start_time.timestamp(), UTC)


def run_name() -> str:
    """Say what a run is, and as of when, in UTC: "tier-storage dry run 2026-11-24 02:00"."""
    asked = runtime.flow_run.parameters
    at = _MOMENT.validate_python(asked.get("as_of") or scheduled_time()).astimezone(UTC)
    kind = " dry run" if asked.get("dry_run", True) else ""
    return f"{runtime.flow_run.flow_name}{kind} {at:%Y-%m-%d %H:%M}"
