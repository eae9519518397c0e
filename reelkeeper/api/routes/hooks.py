"""What a provider calls when a job is over. Its signature stands for a token, so the gate lets it through."""

import time
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool

from reelkeeper.adapters.generator import webhook
from reelkeeper.api.backing import Stands
from reelkeeper.operations.claim import look_soon
from reelkeeper.settings import settings

PATH: Final = "/hooks/generator"
router = APIRouter()


@router.post(PATH, include_in_schema=False)  # a provider's, not a client's
async def generator_called(request: Request, stands: Stands) -> Response:
    """Have the job that the call is about looked at soon. Says the same of a job that is not known."""
    secret = settings().generator_webhook_secret
    if secret is None:
        raise HTTPException(404, "no provider is expected to call: REELKEEPER_GENERATOR_WEBHOOK_SECRET is not set")
    shown = request.headers.get(webhook.HEADER, "")
    job_id = webhook.verify(secret.get_secret_value(), await request.body(), shown, time.time())
    await run_in_threadpool(look_soon, stands.depot.engine, job_id)
    return Response(status_code=204)
