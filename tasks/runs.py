"""Parts shared by all flows: parameters, run id and name, workspace, lease, and the heartbeat of a success."""

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import uuid4

from httpx import HTTPError
from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import Abort
from prefect.flows import Flow
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL, get_current_settings
from pydantic import AwareDatetime, Field, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import Frozen, ReelkeeperError
from reelkeeper.operations import Engine, open_store, safe_to_repeat
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.core import machine
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.isolation import UNFIT
from reelkeeper.operations.core.lease import PATIENCE_SECONDS, HeldLease, alone
from reelkeeper.operations.core.overrides import as_params
from reelkeeper.operations.core.workspace import Workspace, is_on_trial, open_workspace
from reelkeeper.operations.health import watchdog
from reelkeeper.redaction import unnamed
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.alerts.cadence import CADENCES, NOT_IN_A_TRIAL, UNSCHEDULED
from reelkeeper.settings import settings

PREFIX: Final = "reelkeeper_"  # of the names of our variables at Prefect's server
RECORD: Final = f"{PREFIX}deployment"  # the id of the deployment whose runs the server starts
closing = threading.Event()  # set where the worker that started this process takes no more work
is_given_back = False  # set where our worker started this process: it has given-back runs started again elsewhere
has_own_server = False  # set where Prefect's server was started for this process alone
_MOMENT = TypeAdapter[datetime](AwareDatetime)  # a parameter may still be text


class FieldHelp:
    """Describes a parameter in Prefect's form. Prefect reads only docstrings, and drops a `Field`'s description."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the description to the schema of the form."""
        return {**handler(schema), "description": self._text}


DryRun = Annotated[bool, FieldHelp("Show what would be done, without doing it; switch it off to apply the changes")]
AsOf = Annotated[
    AwareDatetime | None, FieldHelp("Judge ages, views and days as of this time; default: when the run was due")
]
PlanId = Annotated[
    str | None, FieldHelp("Saved plan, at most 24 hours old, to carry out unchanged; default: a new one")
]
GraceDays = Annotated[
    Annotated[int, Field(ge=1, le=365)] | None,
    FieldHelp("Days in which a retired video can be restored, before its bytes are purged; default: the policy's"),
]
ServiceGraceDays = Annotated[
    Annotated[int, Field(ge=1, le=365)] | None, FieldHelp("The same for keys that the service chose and may overwrite")
]


def run_id() -> str:
    """Return the id of this run for catalogue and audit: Prefect's id of the flow run, else a new one."""
    return str(runtime.flow_run.id or uuid4().hex)


def given() -> dict[str, str]:
    """Return the parameters that this run was given and that have no option of their own, as `--param` takes them."""
    run = FlowRunContext.get()
    if run is None or run.flow is None:
        return {}
    takes = inspect.signature(run.flow.fn).parameters
    own = {"dry_run", "as_of", "plan_id"}
    set_here = {name: value for name, value in (run.parameters or {}).items() if value != takes[name].default}
    return as_params({name: value for name, value in set_here.items() if name not in own})


def scheduled_time() -> datetime:
    """Return the time when this run was due, in UTC: a run that starts late decides as it would have on time."""
    return datetime.fromtimestamp(runtime.flow_run.scheduled_start_time.timestamp(), UTC)


def run_name() -> str:
    """Name a run by flow, kind and time in UTC: "tier-storage dry run 2026-11-24 02:00"."""
    parameters = runtime.flow_run.parameters
    at = _MOMENT.validate_python(parameters.get("as_of") or scheduled_time()).astimezone(UTC)
    kind = " dry run" if parameters.get("dry_run", True) else ""
    return f"{runtime.flow_run.flow_name}{kind} {at:%Y-%m-%d %H:%M}"


@contextmanager
def workspace(*, waits: bool = True) -> Iterator[Workspace]:
    """Open the configured store and bucket, and check that they belong together. A dry run writes nothing there.

    A run waits for up to PATIENCE_SECONDS where the store does not answer as it begins, and one that `waits` whenever.
    """
    claims = not runtime.flow_run.parameters.get("dry_run", True)
    opening = open_workspace(settings(), claims=claims, patience_seconds=PATIENCE_SECONDS if waits else 0.0)
    with _naming_nobody(), _giving_back():
        if not waits:
            with open_store(settings(), patience_seconds=PATIENCE_SECONDS):
                pass  # it answers
        with opening as workspace:
            yield workspace


@contextmanager
def store() -> Iterator[Engine]:
    """Open the store alone, for a flow that needs no bucket, and wait as `workspace` does."""
    with _naming_nobody(), _giving_back(), open_store(settings(), patience_seconds=PATIENCE_SECONDS) as engine:
        yield engine


def recorded(client: SyncPrefectClient) -> dict[str, Any]:
    """Read what is recorded for Reelkeeper at Prefect's server: the variables whose names begin with our prefix."""
    body = {"variables": {"name": {"like_": PREFIX}}, "limit": 200}
    found = client.request("POST", "/variables/filter", json=body).json()
    return {each["name"]: each["value"] for each in found if each["name"].startswith(PREFIX)}


def require_deployment() -> None:
    """Raise IdentityMismatch unless this process has the store of the deployment that Prefect's server is recorded for.

    A server without a record, or one that was started for this process alone, is nobody's. Nothing is made.
    """
    if has_own_server or not PREFECT_API_URL.value():
        return
    deployment_id = _recorded_deployment()
    # guard machines.runs: a run in a process without settings reports that it is done, and did nothing here
    if deployment_id is not None:
        machine.require_deployment(settings(), deployment_id, patience_seconds=PATIENCE_SECONDS)


def server() -> Orchestrator | None:
    """Return Prefect's server where it is recorded for a deployment: that is ours, by `require_deployment`.

    None also where it asks for a key, as Prefect's Cloud does, or does not answer.
    """
    at = get_current_settings().api
    if has_own_server or not at.url or at.key:
        return None
    try:
        is_ours = _recorded_deployment() is not None
    except HTTPError:
        return None
    # guard machines.runs_told: another deployment's alerts tell of runs that are not its own
    if not is_ours:
        return None
    return Orchestrator(at.url, at.auth_string.get_secret_value() if at.auth_string else None)


def _recorded_deployment() -> str | None:
    with get_client(sync_client=True) as client:
        return recorded(client).get(RECORD)


@contextmanager
def _giving_back() -> Iterator[None]:
    """Let a run do nothing outside its deployment; give it back to Prefect where this machine cannot do it."""
    try:
        require_deployment()
        yield
    except UNFIT as error:
        if is_given_back and _is_unfit():
            get_run_logger().warning("given back, since this machine cannot go on: %s", error)
            raise Abort(str(error)) from error  # leaves the state as it is: the worker has another machine do it
        raise


def _is_unfit() -> bool:
    """Check whether the machine is at fault, which its worker notices too, and not the run."""
    try:
        require_deployment()
        with open_store(settings(), may_make=False) as engine:
            machine.require_fit(engine, settings().scratch)
    except UNFIT:
        return True
    return False


@contextmanager
def _naming_nobody() -> Iterator[None]:
    """Remove users' ids from an error, since Prefect writes it into its database as the state of the run."""
    try:
        yield
    except ReelkeeperError as error:
        # guard secrets.states: the id of a user stands in Prefect's database, which no erasure reaches
        error.args = tuple(unnamed(part) if isinstance(part, str) else part for part in error.args)
        raise


@contextmanager
def lease(workspace: Workspace, flow: str) -> Iterator[HeldLease]:
    """Hold the lease of `flow`, so that no other run of it changes anything. Raises Frozen, LeaseLost if it is held."""
    if reason := why_frozen(workspace.engine):
        raise Frozen(reason)
    with alone(workspace.engine, f"flow/{flow}") as held:
        yield held


def beat(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Record the success of a run for the watchdog, and resolve alerts about failed runs.

    Dry runs do not count, except in a trial those of flows that make no others there. Prefect calls this hook of each
    flow on completion.
    """
    name = flow.fn.__name__
    took = state.timestamp - flow_run.start_time if flow_run.start_time else None
    with open_store(settings(), patience_seconds=PATIENCE_SECONDS) as engine:
        record(engine, name, str(flow_run.id), took, is_dry=flow_run.parameters.get("dry_run", True))


@safe_to_repeat
def record(engine: Engine, name: str, run_id: str, took: timedelta | None, *, is_dry: bool) -> None:
    """Record the success of a run, unless it was a dry one and those do not count."""
    # guard trial.beats: a dry run of the backup, by a person in a trial, counts as a backup
    if is_dry and not (name in NOT_IN_A_TRIAL and is_on_trial(engine)):
        return
    run_seconds = took.total_seconds() if took else None
    watchdog.beat(engine, name, run_id=run_id, run_seconds=run_seconds, **CADENCES.get(name, UNSCHEDULED)._asdict())
    alerts.observe(engine, [], rules=alerting.RULES, scope=alerting.scope(name), run_id=run_id)
