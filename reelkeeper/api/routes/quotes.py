"""Quotes: what a request for a video would get and cost now, without making it."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from reelkeeper.api.app_state import CurrentState, needs
from reelkeeper.api.load import WORK
from reelkeeper.api.problems import Problem, described, documented
from reelkeeper.api.routes.jobs import REFUSED, NewJob, wait_of
from reelkeeper.model.requests import Quoted
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core.either_id import for_user
from reelkeeper.operations.jobs.admit import quoted

router = APIRouter(prefix="/v1/quotes", tags=["jobs"])


class Quote(BaseModel):
    """The price and the answer of `POST /v1/jobs` to the same body now. Nothing is charged, held or reserved."""

    status: Literal["cached", "joined", "queued"] | None = Field(
        description="cached: the video exists. joined: it is already being made. queued: it would be made. null: no "
        "model makes it"
    )
    price_microusd: int | None = Field(
        description="What would be taken (cached) or held until the job ends (joined, queued), in micro-dollars"
    )
    charge_microusd: int | None = Field(description="What the video would cost in all, in micro-dollars")
    price_book: str | None = Field(description="Version of the prices; empty: nothing was priced")
    refusal: Problem | None = Field(description="The problem that would be answered instead; null: none")
    retry_seconds: int | None = Field(description="`Retry-After` of the refusal, in seconds; null: none")


@router.post(
    "",
    summary="Quote a price for a video",
    dependencies=[needs(Scope.JOBS), WORK],
    responses=documented(404, 409, 410),
)
def quote_job(body: NewJob, app_state: CurrentState) -> Quote:
    """Answer with the price, and whether the video exists, is being made, or would be refused and why.

    It is judged as a request with a new idempotency key. A later request is judged anew: nothing is promised.
    """
    engine, provider = app_state.workspace.engine, app_state.provider

    def told(user_id: str) -> Quoted:
        return quoted(engine, body.request, user_id=user_id, provider=provider, tag=body.tag, given=body.given)

    answer = for_user(engine, body.user_id, told)
    declined = answer.declined
    return Quote(
        status=answer.status,
        price_microusd=answer.price_microusd,
        charge_microusd=answer.charge_microusd,
        price_book=answer.price_book,
        refusal=declined and described(REFUSED[declined.code], declined.code, declined.reason),
        retry_seconds=declined and wait_of(declined),
    )
