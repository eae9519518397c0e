"""Webhooks: which servers of the service are told what happens, as `reelkeeper webhooks` does it."""

from datetime import UTC
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from reelkeeper.api.app_state import CurrentState, IdempotencyKey, needs
from reelkeeper.api.load import WORK, WRITE
from reelkeeper.api.problems import documented
from reelkeeper.model.access import Caller, Scope
from reelkeeper.model.alerts import Endpoint, EventType
from reelkeeper.operations.alerts import webhooks as operation

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
Id = Annotated[str, Path(pattern="^[0-9a-f]{12}$", examples=["0123456789ab"])]
Events = Annotated[list[EventType], Field(max_length=len(EventType), description="Event types to send; empty: all")]


class NewEndpoint(BaseModel):
    """A server that is to be told."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"url": "https://video.example.com/hooks", "events": ["video.changed"]}]},
    )

    url: str = Field(min_length=1, max_length=2_000, description="https URL at a public address")
    events: Events = []


class Choice(BaseModel):
    """What an endpoint is told from now on, and whether anything is sent to it."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"events": ["video.changed", "video.purged"], "enabled": True}]}
    )

    events: Events
    enabled: bool = Field(True, description="false: messages are kept until the webhook is enabled again")


class Secret(BaseModel):
    """An endpoint and the secret that its messages are signed with, which is shown this once."""

    id: str
    secret: str


class Endpoints(BaseModel):
    """All endpoints, the oldest first."""

    webhooks: list[Endpoint]


class Removed(BaseModel):
    """An endpoint that is no more."""

    removed: str


class Again(BaseModel):
    """What is sent once more."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"since": "2026-11-26T00:00:00Z"}]})

    since: AwareDatetime | None = Field(
        None, description="Also resend messages that were delivered, of events since this time"
    )


class Replayed(BaseModel):
    """How many messages are sent once more."""

    replayed: int


@router.get("", summary="List all webhooks", dependencies=[needs(Scope.WEBHOOKS), WORK], responses=documented())
def listed(app_state: CurrentState) -> Endpoints:
    """List the endpoints, how they do, and what waits for them; no secret."""
    return Endpoints(webhooks=operation.listed(app_state.workspace.engine))


@router.post("", summary="Add a webhook", status_code=201, dependencies=[WORK], responses=documented())
def add(
    asked: NewEndpoint, key: IdempotencyKey, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]
) -> Secret:
    """Add an endpoint, and give its secret for the only time. The same again is the same one, with a new secret."""
    made = operation.add(
        app_state.workspace.engine,
        asked.url,
        asked.events,
        allow_private=app_state.allow_private,
        key=key,
        author=caller.name,
    )
    return Secret(id=made[0], secret=made[1])


@router.put("/{webhook_id}", summary="Set a webhook's events", dependencies=[WRITE], responses=documented(404))
def choose(
    webhook_id: Id, asked: Choice, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]
) -> Endpoint:
    """Tell it of these events from now on, or send it nothing for a while. What waits for it already is sent."""
    engine = app_state.workspace.engine
    operation.choose(engine, webhook_id, asked.events, author=caller.name)
    (operation.enable if asked.enabled else operation.disable)(engine, webhook_id, author=caller.name)
    return next(line for line in operation.listed(engine) if line.id == webhook_id)


@router.post(
    "/{webhook_id}/secret", summary="Replace a webhook's secret", dependencies=[WRITE], responses=documented(404)
)
def rotate(webhook_id: Id, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]) -> Secret:
    """Give a new secret, for the only time; for a day the one before it signs beside it."""
    return Secret(id=webhook_id, secret=operation.rotate(app_state.workspace.engine, webhook_id, author=caller.name))


@router.post("/{webhook_id}/replay", summary="Resend messages", dependencies=[WRITE], responses=documented(404))
def replay(
    webhook_id: Id, asked: Again, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]
) -> Replayed:
    """Send what was given up and, of `since`, what was delivered. Each message keeps its id."""
    since = asked.since and asked.since.astimezone(UTC)
    return Replayed(replayed=operation.replay(app_state.workspace.engine, webhook_id, since=since, author=caller.name))


@router.delete("/{webhook_id}", summary="Delete a webhook", dependencies=[WRITE], responses=documented(404))
def remove(webhook_id: Id, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]) -> Removed:
    """Forget the endpoint, and what waits for it."""
    operation.remove(app_state.workspace.engine, webhook_id, author=caller.name)
    return Removed(removed=webhook_id)
