"""Webhooks: endpoints of the service that receive events; as `reelkeeper webhooks`."""

from datetime import UTC
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.api.app_state import CurrentState, IdempotencyKey, Moment, needs
from reelkeeper.api.load import WORK, WRITE
from reelkeeper.api.problems import documented
from reelkeeper.model.alerts import Endpoint, EventType
from reelkeeper.model.token_scopes import Caller, Scope
from reelkeeper.operations.alerts import webhooks as operation

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
Id = Annotated[str, Path(pattern="^[0-9a-f]{12}$", examples=["0123456789ab"])]
Events = Annotated[list[EventType], Field(max_length=len(EventType), description="Event types to send; empty: all")]


class NewEndpoint(BaseModel):
    """A webhook to add."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"url": "https://video.example.com/hooks", "events": ["video.changed"]}]},
    )

    url: str = Field(min_length=1, max_length=2_000, description="https URL at a public address")
    events: Events = []


class Choice(BaseModel):
    """The event types to send to an endpoint, and whether it is enabled."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"events": ["video.changed", "video.purged"], "enabled": True}]}
    )

    events: Events
    enabled: bool = Field(
        True,
        strict=True,
        description="Whether messages are sent; false: they wait until the webhook is enabled again",
    )


class Secret(BaseModel):
    """A webhook and the secret that signs its messages, which is shown only once."""

    id: str
    secret: str


class Endpoints(BaseModel):
    """All webhooks, oldest first."""

    webhooks: list[Endpoint]


class RemovedWebhook(BaseModel):
    """A webhook that was deleted."""

    removed: str


class Again(BaseModel):
    """The messages to send again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"since": "2026-11-26T00:00:00Z"}]})

    since: Moment | None = Field(None, description="Also resend delivered messages of events since this time")


class Replayed(BaseModel):
    """The number of messages that are sent again."""

    replayed: int


@router.get("", summary="List all webhooks", dependencies=[needs(Scope.WEBHOOKS), WORK], responses=documented())
def list_webhooks(app_state: CurrentState) -> Endpoints:
    """List all webhooks with their state and waiting messages, without secrets."""
    return Endpoints(webhooks=operation.listed(app_state.workspace.engine))


@router.post("", summary="Add a webhook", status_code=201, dependencies=[WORK], responses=documented())
def add_webhook(
    body: NewEndpoint, key: IdempotencyKey, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]
) -> Secret:
    """Add a webhook, and show its secret once. A repetition with the same key returns it with a new secret."""
    made = operation.add(
        app_state.workspace.engine,
        body.url,
        body.events,
        allow_private=app_state.allow_private,
        key=key,
        author=caller.name,
    )
    return Secret(id=made[0], secret=made[1])


@router.put("/{webhook_id}", summary="Set a webhook's events", dependencies=[WRITE], responses=documented(404))
def set_webhook(
    webhook_id: Id, body: Choice, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]
) -> Endpoint:
    """Set the event types to send from now on, and enable or disable the webhook. Waiting messages are still sent."""
    engine = app_state.workspace.engine
    operation.choose(engine, webhook_id, body.events, author=caller.name)
    # guard webhooks.enabled_already: a service that sets its events often keeps a dead endpoint from being reported
    if body.enabled != (operation.find(engine, webhook_id).disabled_at is None):
        (operation.enable if body.enabled else operation.disable)(engine, webhook_id, author=caller.name)
    return operation.find(engine, webhook_id)


@router.post(
    "/{webhook_id}/secret", summary="Replace a webhook's secret", dependencies=[WRITE], responses=documented(404)
)
def rotate_webhook_secret(
    webhook_id: Id, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]
) -> Secret:
    """Create a new secret, and show it once. For a day, the previous secret also signs messages."""
    return Secret(id=webhook_id, secret=operation.rotate(app_state.workspace.engine, webhook_id, author=caller.name))


@router.post("/{webhook_id}/replay", summary="Resend messages", dependencies=[WRITE], responses=documented(404))
def replay_webhook(
    webhook_id: Id, body: Again, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]
) -> Replayed:
    """Resend messages that were given up and, with `since`, delivered ones. Each message keeps its id."""
    since = body.since and body.since.astimezone(UTC)
    return Replayed(replayed=operation.replay(app_state.workspace.engine, webhook_id, since=since, author=caller.name))


@router.delete("/{webhook_id}", summary="Delete a webhook", dependencies=[WRITE], responses=documented(404))
def delete_webhook(
    webhook_id: Id, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.WEBHOOKS)]
) -> RemovedWebhook:
    """Delete the webhook and its waiting messages."""
    operation.remove(app_state.workspace.engine, webhook_id, author=caller.name)
    return RemovedWebhook(removed=webhook_id)
