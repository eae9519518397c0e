"""What other systems call: a provider when a job is over, Prefect when a flow run went wrong.

The provider's signature stands for a token, so the gate lets it through. Prefect shows a token, as clients do.
"""

import time
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, StringConstraints

from reelkeeper.adapters import providers
from reelkeeper.adapters.providers import vendor_calls, webhook
from reelkeeper.adapters.providers.fal import job_path
from reelkeeper.api.app_state import CurrentState, needs
from reelkeeper.api.load import WRITE, Loaded
from reelkeeper.model.access import Scope
from reelkeeper.operations.alerts.alerts import observe
from reelkeeper.operations.jobs.claim import name_sent, poll_now
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.alerts.alerting import Trouble
from reelkeeper.settings import Settings, settings

PATH: Final = "/hooks/generator"
RUNS_PATH: Final = "/hooks/runs"
router = APIRouter()


class TroubledRun(BaseModel):
    """A flow run that went wrong, as an automation of Prefect's tells it."""

    trouble: Trouble
    flow: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,99}$")]
    run_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F-]{32,36}$")]
    run_name: str = Field("", max_length=1_000)
    message: str | None = None
    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$", max_length=1_000)] | None = None


@router.post(PATH, include_in_schema=False)  # a provider's, not a client's
async def generator_called(request: Request, app_state: CurrentState, load: Loaded) -> Response:
    """Have the job that the call is about looked at soon. Says the same of a job that is not known."""
    given = settings()
    secret = given.generator_webhook_secret
    # guard webhook.secret: a call is believed though no secret is set
    if secret is None:
        raise HTTPException(404, "no provider is expected to call: REELKEEPER_GENERATOR_WEBHOOK_SECRET is not set")
    shown = request.headers.get(webhook.HEADER, "")
    if given.generator in providers.VENDORS:
        return await _vendor_called(given, secret.get_secret_value(), request, app_state, load)
    # guard webhook.verified: anybody makes us ask the provider about any job, without end
    job_id = webhook.verify(secret.get_secret_value(), await request.body(), shown, time.time())
    async with load.writing.turn(), load.work.turn():
        await run_in_threadpool(poll_now, app_state.workspace.engine, job_id)
    return Response(status_code=204)


async def _vendor_called(
    given: Settings, secret: str, request: Request, app_state: CurrentState, load: Loaded
) -> Response:
    """Note the vendor's name of the job, where its answer was lost, and have it looked at."""
    vendor, body = str(given.generator), await request.body()
    verify = partial(
        vendor_calls.verify, url=given.generator_url, allow_private=given.allow_private_addresses
    )  # which may have to fetch fal's keys
    # guard vendor_call.verified: anybody names the job that a lost answer was about
    call = await run_in_threadpool(verify, vendor, secret, request.query_params, request.headers, body, time.time())

    def name(model: str) -> str:
        return job_path(given.generator_model or model, call.told) if vendor == "fal" else call.told

    async with load.writing.turn(), load.work.turn():
        await run_in_threadpool(name_sent, app_state.workspace.engine, call.key, name)
    return Response(status_code=204)


@router.post(RUNS_PATH, include_in_schema=False, dependencies=[needs(Scope.RUNS), WRITE])
def run_in_trouble(run: TroubledRun, app_state: CurrentState) -> Response:
    """Tell people. The same call again tells nothing new, and neither does the next run that fails the same way."""
    found = alerting.finding(run.trouble, run.flow, run_name=run.run_name, message=run.message or "", url=run.url or "")
    observe(app_state.workspace.engine, [found], rules=(), run_id=run.run_id)
    return Response(status_code=204)
