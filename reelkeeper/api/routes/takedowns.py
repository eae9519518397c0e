"""Takedowns: delete the bytes of videos at once, with a certificate from the audit record."""

from datetime import datetime
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, BackgroundTasks
from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.api.app_state import CurrentState, Reason, needs
from reelkeeper.api.load import REMOVAL, WORK
from reelkeeper.api.paths import VideoId
from reelkeeper.api.problems import documented
from reelkeeper.model.ids import Id
from reelkeeper.model.jobs import VendorErasure
from reelkeeper.model.requests import Whole
from reelkeeper.model.token_scopes import Caller, Scope
from reelkeeper.operations.core.either_id import for_video
from reelkeeper.operations.lifecycle import cache_purge
from reelkeeper.operations.removals import at_vendors, lock_ends
from reelkeeper.operations.removals import takedown as operation
from reelkeeper.settings import settings

router = APIRouter(prefix="/v1/takedowns", tags=["takedowns"])


class NewTakedown(BaseModel):
    """A video to take down, and the reason."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"video_id": "v1", "reason": "court order 17"}]}
    )

    video_id: Id
    reason: Reason = Field(description="Reason, kept in the audit record")
    same_bytes: bool = Field(
        False, strict=True, description="Whether to take down all other videos with the same bytes, too"
    )
    max_videos: Whole = Field(
        operation.MAX_VIDEOS,
        ge=0,
        le=1_000_000,
        description="Maximum number of other videos with the same bytes; with more, only `video_id` is taken down",
    )


class RemovedObject(BaseModel):
    """An object of a video that was taken down."""

    video_id: str
    key: str
    size_bytes: int
    sha256: str | None = Field(description="SHA-256 of the object; null: it could not be read")
    purged_at: datetime | None = Field(description="When the object was purged; null: it is still stored")
    event: int | None = Field(description="Number of the deletion in the audit record")
    why: str = Field(description="Why the object is kept, while it is stored")


class AtVendor(BaseModel):
    """A copy of a request, and of what was made of it, at a vendor of videos."""

    provider: str
    job: str | None = Field(description="The vendor's name of it; null: unknown")
    state: VendorErasure = Field(
        description="`waiting` for the vendor; `deleted`; `partly`: not its files; `absent`: the vendor does not have "
        "it; `kept`: the vendor has no call for it; `unnamed`: whether the vendor has it is not known; `given_up`"
    )
    at: datetime = Field(description="When the vendor answered, or else when it was asked for")
    why: str = Field(description="The state, in a sentence")


class Certificate(BaseModel):
    """The record of a takedown: its objects, its time, its author and the reason, from the audit record."""

    video_id: str
    video_ids: list[str]
    at: datetime
    by: str
    reason: str
    event: int = Field(description="Number of the takedown in the audit record")
    objects: list[RemovedObject]
    vendors: list[AtVendor] = Field(description="What became of the copies of those who made the videos")
    files: list[str] = Field(description="Keys of the service's own files beside the videos, which stay: delete them")
    left: int = Field(description="Number of objects that are still stored; they are not served to anyone")
    others_kept: int = Field(
        description="Number of other videos with the same bytes that this request left as they are, because they are "
        "more than `max_videos`; 0: none"
    )

    @classmethod
    def of(cls, found: operation.Certificate) -> "Certificate":
        """Build the answer from a certificate."""
        objects = [RemovedObject(**item._asdict()) for item in found.objects]
        vendors = [AtVendor(**item._asdict()) for item in found.vendors]
        return cls(**{**found._asdict(), "objects": objects, "vendors": vendors, "left": len(found.left)})


@router.post("", summary="Take down a video", dependencies=[REMOVAL], responses=documented(404, 409))
def take_down_video(
    body: NewTakedown,
    app_state: CurrentState,
    caller: Annotated[Caller, needs(Scope.TAKEDOWNS)],
    background: BackgroundTasks,
) -> Certificate:
    """Stop serving the video, delete its bytes at once, and never publish them again. Safe to repeat.

    Only a legal hold stops a takedown; a grace period, a freeze or another hold does not.
    """
    order = operation.TakedownOrder(caller.name, body.reason, f"takedown-{uuid4().hex[:12]}")

    def taken_down(video_id: str, _user_id: str | None) -> operation.Certificate:
        return operation.take_down(
            app_state.workspace,
            video_id,
            order,
            scratch=app_state.scratch,
            same_bytes=body.same_bytes,
            max_videos=body.max_videos,
        )

    found = for_video(app_state.workspace.engine, body.video_id, None, taken_down)
    background.add_task(cache_purge.catch_up, app_state.workspace.engine, settings(), "takedown")
    background.add_task(at_vendors.catch_up, app_state.workspace.engine, settings(), "takedown")
    return Certificate.of(lock_ends.explain(app_state.workspace, found, lock_ends.reader(settings())))


@router.get(
    "/{video_id:id}",
    summary="Get the certificate of a takedown",
    dependencies=[needs(Scope.TAKEDOWNS), WORK],
    responses=documented(404),
)
def get_takedown(video_id: VideoId, app_state: CurrentState) -> Certificate:
    """Return what was taken down with a video, and what is still stored."""
    engine = app_state.workspace.engine
    return Certificate.of(
        for_video(engine, video_id, None, lambda video_id, _: operation.certificate(engine, video_id))
    )
