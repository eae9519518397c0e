"""Hooks for other systems: providers (a job ended), Prefect (a flow run failed), Slack (a button was clicked).

Providers and Slack sign their calls, so the middleware admits them without a token. Prefect sends a token.
"""

import logging
import time
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, BackgroundTasks, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, StringConstraints

from reelkeeper.adapters import providers, slack
from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.adapters.providers import vendor_calls, webhook
from reelkeeper.adapters.providers.fal import job_path
from reelkeeper.api.app_state import CurrentState, needs
from reelkeeper.api.load import WRITE, Loaded
from reelkeeper.errors import OrchestratorError, SinkError
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.alerts.alerts import report_run
from reelkeeper.operations.alerts.outbox import run_link
from reelkeeper.operations.jobs.claim import name_sent, poll_now
from reelkeeper.operations.lifecycle.clicks import ClickResult, carry_out
from reelkeeper.operations.lifecycle.plans import start_approved
from reelkeeper.redaction import redacted
from reelkeeper.rules.alerts.alerting import Trouble
from reelkeeper.settings import settings
from reelkeeper.vendor_settings import HOOKS

EARLIER: Final = "generator"  # the path of every vendor in earlier versions: URLs of jobs in flight have it
PATHS: Final = frozenset(f"{HOOKS}/{name}" for name in (EARLIER, "http", *providers.VENDORS))
RUNS_PATH: Final = f"{HOOKS}/runs"
SLACK_PATH: Final = f"{HOOKS}/slack"
router = APIRouter()
_log = logging.getLogger(__name__)


class TroubledRun(BaseModel):
    """A flow run that went wrong, as reported by a Prefect automation."""

    trouble: Trouble
    flow: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,99}$")]
    run_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F-]{32,36}$")]
    run_name: str = Field("", max_length=1_000)
    message: str | None = None
    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$", max_length=1_000)] | None = None
    is_manual_dry_run: bool = False  # of `reelkeeper run`, which shows the error to its person


@router.post(SLACK_PATH, include_in_schema=False)  # called by Slack, not by clients
async def button_pressed(
    request: Request, app_state: CurrentState, load: Loaded, background: BackgroundTasks
) -> Response:
    """Carry out the button that an operator clicked beside an alert; only that person sees the answer."""
    given = settings()
    # guard slack.secret: clicks are accepted although no secret is set
    if given.slack_signing_secret is None:
        raise HTTPException(404, "buttons are not accepted: REELKEEPER_SLACK_SIGNING_SECRET is not set")
    click = slack.read(given.slack_signing_secret.get_secret_value(), await request.body(), request.headers)
    if click:
        async with load.writing.turn(), load.work.turn():
            result = await run_in_threadpool(carry_out, app_state.workspace.engine, click, given.slack_operators)
        # Slack waits for 3 s, so everything that may take longer runs after the answer.
        background.add_task(_tell, result, click.answer_url, given.slack_api_url, app_state.orchestrator)
    return Response(status_code=200, background=background)


def _tell(result: ClickResult, url: str, api_url: str, orchestrator: Orchestrator | None) -> None:
    text = result.answer
    if result.approved and orchestrator:
        try:
            run_id = start_approved(result.approved, orchestrator)
            text = f"Plan {result.approved.plan_id} is approved for one run, and run {run_id} was started."
        except OrchestratorError as error:
            text = str(error)
            _log.warning("%s", redacted(text))
    try:
        slack.answer(url, text, api_url=api_url)
    except SinkError as error:  # the channel also shows what was done
        _log.warning("the answer to a click on a button could not be sent: %s", error)


@router.post(RUNS_PATH, include_in_schema=False, dependencies=[needs(Scope.RUNS), WRITE])
def run_in_trouble(run: TroubledRun, app_state: CurrentState) -> Response:
    """Raise an alert, and send it. A repeated call, or another run that fails in the same way, raises no second one."""
    if run.is_manual_dry_run:
        return Response(status_code=204)
    url = run_link(settings().ui_url, run.run_id) or run_link(None, run.url or "")
    engine, message = app_state.workspace.engine, run.message or ""
    report_run(engine, run.trouble, run.flow, run.run_id, run_name=run.run_name, message=message, url=url)
    if app_state.delivering:
        app_state.delivering.wake()
    return Response(status_code=204)


@router.post(f"{HOOKS}/{{vendor}}", include_in_schema=False)  # called by providers, not by clients
async def vendor_called(vendor: str, request: Request, app_state: CurrentState, load: Loaded) -> Response:
    """Record the vendor's id of the job that the call is about, in case its answer was lost, and poll the job soon.

    The answer is the same for an unknown job.
    """
    given = settings()
    # guard webhook.earlier: calls about jobs in flight at an upgrade are refused, and lost answers stay lost
    name = vendor_calls.signer(request.headers) if vendor == EARLIER else vendor
    url, _, _, secret = given.access(name)
    # guard webhook.secret: calls are accepted although no secret is set
    if secret is None:
        raise HTTPException(
            404, f"calls of {name} are not accepted: REELKEEPER_{name.upper()}_WEBHOOK_SECRET is not set"
        )
    body, now, engine = await request.body(), time.time(), app_state.workspace.engine
    if name in providers.VENDORS:
        verify = partial(  # may fetch fal's keys
            vendor_calls.verify, url=url, allow_private=given.allow_private_addresses
        )
        # guard vendor_call.verified: anybody can set the vendor's id of a job whose answer was lost
        call = await run_in_threadpool(verify, name, secret, request.query_params, request.headers, body, now)
        model = given.generator_model if name == given.provider else None
        named = partial(job_path, request_id=call.job_id) if name == "fal" else lambda _model: call.job_id
        record = partial(name_sent, engine, call.key, named, model=model)
    else:
        # guard webhook.verified: anybody can trigger any number of calls to the provider about any job
        job_id = webhook.verify(secret, body, request.headers.get(webhook.HEADER, ""), now)
        record = partial(poll_now, engine, job_id)
    async with load.writing.turn(), load.work.turn():
        await run_in_threadpool(record)
    return Response(status_code=204)
