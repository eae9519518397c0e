"""Jobs: request a video, follow its job, and cancel it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Final, Literal
from uuid import uuid4

from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, Json

from reelkeeper.api.app_state import AppState, CurrentState, IdempotencyKey, Newest, Whose, needs
from reelkeeper.api.load import STREAM, WORK, WRITE
from reelkeeper.api.problems import documented, problem
from reelkeeper.model.ids import Id, Place
from reelkeeper.model.jobs import IN_FLIGHT, JobState, ListedJob
from reelkeeper.model.requests import (
    Admission,
    Cached,
    Declined,
    GenerationRequest,
    Given,
    Joined,
    Metadata,
    Queued,
    RefusedFor,
    Tag,
    Unfulfilled,
    WebhookUrl,
)
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core.either_id import for_user
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.follow import Job, follow, newest

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
EVENTS: Final = "/events"  # last part of the path of an event stream
REFUSED: Final = {
    RefusedFor.QUOTA: 403,
    RefusedFor.CREDITS: 402,
    RefusedFor.BUDGET: 503,
    RefusedFor.SPEND_LIMIT: 429,
    RefusedFor.FROZEN: 503,
    RefusedFor.INPUT: 422,
    RefusedFor.MODEL: 422,
}
JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", examples=["0123456789abcdef0123456789abcdef"])]


class EventStream(StreamingResponse):
    """Server-sent events, without fastapi.sse, whose routes answer 200 before they know whether the job exists."""

    media_type = "text/event-stream"


class JobEvent(BaseModel):
    """One server-sent event of a job."""

    event: Literal["job", "end"] = Field(description="end: the job has ended, and no event follows")
    data: Json[Job] = Field(description="The job at this moment: `Job`, as JSON")


# OpenAPI 3.1 has no word for the items of a stream; JSON Schema has one for what a text contains.
_EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The job whenever it changes, and comments between that keep the connection open",
        "content": {
            EventStream.media_type: {
                "schema": {
                    "type": "string",
                    "contentMediaType": EventStream.media_type,
                    "contentSchema": {"type": "array", "items": {"$ref": "#/components/schemas/JobEvent"}},
                },
                "example": 'event: end\ndata: {"job_id":"0123456789abcdef0123456789abcdef", ...}\n\n',
            }
        },
    }
}


class NewJob(BaseModel):
    """A user's request for a video."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"user_id": "ann", "request": {"model": "sketch-1", "prompt": "A fox in the snow, at dusk"}}]
        },
    )

    user_id: Id
    request: GenerationRequest
    tag: Tag | None = Field(
        None,
        description="Tag for lifecycle segments. It is not part of the request: a video that already exists or is "
        "being made keeps its own tag",
    )
    metadata: Metadata = {}
    webhook_url: WebhookUrl | None = Field(
        None,
        description="URL that the event `job.ended` of this job is sent to, too. A webhook must have its scheme, host "
        "and port: the secret of that one signs the event",
    )

    @property
    def given(self) -> Given:
        """Return the metadata and the webhook URL, which are stored with the job alone."""
        return Given(self.metadata, self.webhook_url)


class Admitted(BaseModel):
    """The answer to a request. `status` determines which fields are present."""

    status: Literal["cached", "joined", "queued", "dead", "cancelled"] = Field(
        description="cached: the video exists. joined: it is already being made. queued: it will be made. dead, "
        "cancelled: the job with this idempotency key ended without a video, at no charge"
    )
    job_id: str
    video_id: str | None = None
    leader_id: str | None = Field(None, description="Id of the job that this one waits for")
    charged_microusd: int | None = None
    price_microusd: int | None = Field(None, description="Price in micro-dollars, held until the job ends")
    price_book: str | None = None
    place: int | None = Field(None, description="Position among the waiting jobs, from 1")
    has_worker: bool | None = Field(
        None,
        description="Whether a worker that starts jobs gave a sign in the last 30 s, or rests and is started for one; "
        "if false, it is not known when this one will start, and both estimates are left out",
    )
    wait_seconds: float | None = Field(None, description="Estimated time until the job starts, in seconds")
    finish_seconds: float | None = Field(None, description="Estimated time until the video is ready, in seconds")
    error: str | None = None


class Cancelled(BaseModel):
    """The state after a cancellation: a worker stops a job that runs or that a provider has; an ended one stays.

    One that another request has joined goes on; that request then pays for the video, and who cancelled pays nothing.
    """

    job_id: str
    state: Literal["queued", "running", "parked", "succeeded", "dead", "cancelled"]


class Jobs(BaseModel):
    """A page of jobs, the newest first."""

    jobs: list[ListedJob]
    after: str | None = Field(description="Value of `after` for the next page; null: last page")


class Wanted(Newest):
    """The jobs to list."""

    user_id: Id | None = Field(None, description="Only those of this user; unset: of all users", examples=["ann"])
    state: JobState | None = Field(None, description="Only those in this state")


_TAKEN: Final[dict[int | str, dict[str, Any]]] = {202: {"model": Admitted, "description": "Joined or queued"}}
_TOO_MUCH: Final = (
    "Too many requests; or urn:reelkeeper:spend-limit: the spend limit of a provider, model, tier or user has no room "
    "for this video, with Retry-After unless it never will"
)
_NOT_NOW: Final = (
    "Temporarily unavailable: urn:reelkeeper:budget, the budget of the day or month is used up, or "
    "urn:reelkeeper:frozen; both with Retry-After, in seconds. The budget does not stop answers from the cache or jobs "
    "that join one in progress"
)


@router.post(
    "",
    summary="Request a video",
    response_model=Admitted,
    response_model_exclude_none=True,
    dependencies=[needs(Scope.JOBS), WRITE],
    responses={**_TAKEN, **documented(402, 404, 410, words={429: _TOO_MUCH, 503: _NOT_NOW})},
)
def create_job(
    body: NewJob, key: IdempotencyKey, app_state: CurrentState, request: Request, response: Response
) -> Admitted | JSONResponse:
    """Answer at once: the video, a place in the queue, or a refusal. Credits and bytes are held until the job ends."""
    engine, provider = app_state.workspace.engine, app_state.provider

    def answered(user_id: str) -> Admission:
        return admit(
            engine,
            body.request,
            user_id=user_id,
            client_key=key,
            provider=provider,
            tag=body.tag,
            given=body.given,
        )

    answer = for_user(engine, body.user_id, answered)
    match answer:
        case Declined(code, reason):
            wait = wait_of(answer)
            headers = {"Retry-After": str(wait)} if wait else None
            return problem(REFUSED[code], code, reason, headers=headers)
        case Cached():
            return Admitted(status="cached", **answer._asdict())
        case Unfulfilled(job_id, state, error):
            return Admitted(status="dead" if state == "dead" else "cancelled", job_id=job_id, error=error)
        case Joined() | Queued():
            request.app.state.dispatching.wake()
            response.status_code = 202
            return Admitted(status="joined" if isinstance(answer, Joined) else "queued", **answer._asdict())


@router.get("", summary="List jobs", dependencies=[needs(Scope.JOBS), WORK], responses=documented(404, 410))
def list_jobs(app_state: CurrentState, wanted: Annotated[Wanted, Query()]) -> Jobs:
    """List the newest jobs first, of a user or of all, by the time of the request. An erased user is a pseudonym."""
    engine, most = app_state.workspace.engine, wanted.limit + 1
    found = newest(engine, user_id=wanted.user_id, state=wanted.state, span=wanted.span, limit=most)
    return Jobs(
        jobs=found[: wanted.limit],
        after=wanted.rest([Place(job.created_at, job.job_id) for job in found]),
    )


@router.get(
    "/{job_id}",
    summary="Get the status of a job",
    dependencies=[needs(Scope.JOBS), WORK],
    responses=documented(404),
)
def get_job(job_id: JobId, app_state: CurrentState, whose: Annotated[Whose, Query()]) -> Job:
    """Return the job's place in the queue and estimated wait, its progress, or its result."""
    return _follow(app_state, job_id, whose)


@router.get(
    "/{job_id}" + EVENTS,
    summary="Follow a job with server-sent events",
    response_class=EventStream,
    dependencies=[needs(Scope.JOBS), STREAM, WORK],
    responses={**_EVENTS, **documented(404)},
)
async def follow_job(
    job_id: JobId, app_state: CurrentState, request: Request, whose: Annotated[Whose, Query()]
) -> EventStream:
    """Send the job, as `GET /v1/jobs/{id}` returns it, whenever it changes; the last event has the result."""
    first = await run_sync(lambda: _follow(app_state, job_id, whose))  # raises NotFound, a 404
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":  # which would else wait for the job to end
        return EventStream((), headers=headers)
    changes: AsyncIterator[Job | None] = request.app.state.following.changes(first)
    return EventStream(_sent(changes, request.state.is_known), headers=headers)


@router.delete(
    "/{job_id}",
    summary="Cancel a job",
    dependencies=[needs(Scope.JOBS), WRITE],
    responses=documented(404),
)
def cancel_job(job_id: JobId, app_state: CurrentState, whose: Annotated[Whose, Query()]) -> Cancelled:
    """Cancel a waiting job at no charge, or have a worker stop one that runs or that a provider has. Safe to repeat."""
    engine, run_id = app_state.workspace.engine, f"api-{uuid4().hex[:12]}"
    state = for_user(
        engine, whose.user_id, lambda user_id: settle.cancel(engine, job_id, run_id=run_id, user_id=user_id)
    )
    return Cancelled(job_id=job_id, state=state.value)


def wait_of(declined: Declined) -> int | None:
    """Return the seconds after which a declined request may be repeated; None: it is no use, or not known."""
    return 30 if declined.code == RefusedFor.FROZEN else declined.retry_seconds


def _follow(app_state: AppState, job_id: str, whose: Whose) -> Job:
    engine = app_state.workspace.engine
    return for_user(engine, whose.user_id, lambda user_id: follow(engine, job_id, user_id=user_id))


async def _sent(changes: AsyncIterator[Job | None], is_known: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
    async for seen in changes:
        # guard auth.stream: a revoked token follows a job for an hour
        if not await is_known():
            return
        yield _event(seen) if seen else ": heartbeat\n\n"


def _event(follower: Job) -> str:
    return f"event: {'job' if follower.state in IN_FLIGHT else 'end'}\ndata: {follower.model_dump_json()}\n\n"
