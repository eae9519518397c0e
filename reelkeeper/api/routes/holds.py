"""Holds: keep a video, or all videos of a user, regardless of all rules and of the user's own requests."""

from datetime import UTC
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.api.app_state import CurrentState, IdempotencyKey, Moment, Reason, needs
from reelkeeper.api.load import WORK, WRITE
from reelkeeper.api.problems import documented
from reelkeeper.model.ids import Id
from reelkeeper.model.token_scopes import Caller, Scope
from reelkeeper.operations import reading
from reelkeeper.operations.core import epochs
from reelkeeper.operations.videos import hold as operation
from reelkeeper.store.videos import holds as rows

router = APIRouter(prefix="/v1/holds", tags=["holds"])


class NewHold(BaseModel):
    """A hold to place on a video or a user."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"scope": "video", "subject": "v1", "reason": "a dispute, case 17"}]},
    )

    scope: Literal["video", "user"]
    subject: Id = Field(description="Id of the video or user")
    reason: Reason = Field(description="Reason, kept in the audit record")
    until: Moment | None = Field(None, description="When the hold ends; null: when it is released")
    legal: bool = Field(
        False, strict=True, description="Whether the hold also keeps the bytes of videos that are taken down"
    )


class Placed(BaseModel):
    """A hold that was placed."""

    id: str
    too_late: int = Field(description="Number of objects that a purge is already deleting or, of a video, has deleted")


class Holds(BaseModel):
    """All holds in force, oldest first."""

    holds: list[rows.Hold]


class Released(BaseModel):
    """A hold that was released."""

    released: str


@router.post(
    "",
    summary="Place a hold on a video, or on all videos of a user",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(404),
)
def place_hold(
    body: NewHold, key: IdempotencyKey, app_state: CurrentState, caller: Annotated[Caller, needs(Scope.HOLDS)]
) -> Placed:
    """Keep the video or user until the hold is released or expires. Safe to repeat with the same idempotency key."""
    placed = operation.hold(
        app_state.workspace.engine,
        rows.HoldTerms(
            scope=body.scope,
            subject=body.subject,
            reason=body.reason,
            author=caller.name,
            expires_at=body.until and body.until.astimezone(UTC),
            is_legal=body.legal,
        ),
        key=key,
    )
    epochs.tell(app_state.workspace)
    return Placed(id=placed.id, too_late=placed.too_late)


@router.get("", summary="List the holds in force", dependencies=[needs(Scope.HOLDS), WORK], responses=documented())
def list_holds(app_state: CurrentState) -> Holds:
    """List the holds in force, oldest first."""
    with reading(app_state.workspace.engine) as session:
        return Holds(holds=rows.in_force(session))


@router.delete("/{hold_id}", summary="Release a hold", dependencies=[WRITE], responses=documented(404))
def release_hold(
    hold_id: Annotated[str, Path(pattern="^[0-9a-f]{12}$", examples=["0123456789ab"])],
    app_state: CurrentState,
    caller: Annotated[Caller, needs(Scope.HOLDS)],
) -> Released:
    """Release the hold: the rules apply again."""
    operation.release(app_state.workspace.engine, hold_id, author=caller.name)
    return Released(released=hold_id)
