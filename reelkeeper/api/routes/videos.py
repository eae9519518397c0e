"""Videos: redirect to their bytes, count views, extend retention and delete."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import uuid4

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.adapters.cloudflare import KEPT_DAYS
from reelkeeper.api.app_state import CurrentState, IdempotencyKey, Moment, Whose, needs
from reelkeeper.api.load import WRITE
from reelkeeper.api.paths import VideoId
from reelkeeper.api.problems import documented
from reelkeeper.errors import InputRefused
from reelkeeper.model.ids import Id
from reelkeeper.model.requests import Whole
from reelkeeper.model.token_scopes import Caller, Scope
from reelkeeper.operations.core.either_id import for_video
from reelkeeper.operations.lifecycle.notices import keep as prolong
from reelkeeper.operations.removals import delete as lifecycle
from reelkeeper.operations.videos.views import Shown, record_views, show
from reelkeeper.store.lifecycle import notices

router = APIRouter(prefix="/v1", tags=["videos"])
_AHEAD: Final = timedelta(minutes=5)  # allowed difference of a caller's clock
_SENT: Final[dict[int | str, dict[str, Any]]] = {
    307: {
        "description": "Location has a URL of the bytes, valid for a limited time",
        "headers": {"Location": {"description": "A presigned URL", "schema": {"type": "string", "format": "uri"}}},
    }
}


class View(BaseModel):
    """A number of views of a video."""

    model_config = ConfigDict(extra="forbid")

    video_id: Id
    views: Whole = Field(1, ge=1, le=1_000_000)


class Views(BaseModel):
    """Views of several videos at about the same time."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"views": [{"video_id": "v1", "views": 12}]}]}
    )

    views: list[View] = Field(min_length=1, max_length=1_000)
    at: Moment | None = Field(None, description="Time of the views, at most 30 days ago; unset: now")


class Counted(BaseModel):
    """The result of a report of views."""

    counted: int = Field(description="Number of videos whose views were counted")
    unknown: list[str] = Field(description="Unknown ids, which were ignored")


class Viewer(Whose):
    """Who views a video, and what the client can play."""

    plays: str | None = Field(
        None,
        pattern=r"^[a-z0-9]{2,16}(,[a-z0-9]{2,16}){0,15}$",
        description="Codecs that the client can play. If the current bytes have another codec, the client is "
        "redirected to the original bytes while these are kept; 406 if they are gone",
        examples=["h264,vp9"],
    )


@router.get(
    "/videos/{video_id:id}",
    summary="Redirect to a video's bytes, and count a view",
    status_code=307,
    response_class=RedirectResponse,
    dependencies=[needs(Scope.VIDEOS), WRITE],
    responses={**_SENT, **documented(404, 406)},
)
def play_video(
    video_id: VideoId,
    app_state: CurrentState,
    viewer: Annotated[Viewer, Query()],
    request: Request,
) -> RedirectResponse:
    """Redirect to a presigned URL of the video's current bytes, or of those before it was compressed: see `plays`."""
    codecs = viewer.plays.split(",") if viewer.plays else ()
    work, seconds, counts = app_state.workspace, app_state.load.policy.url_seconds, request.method == "GET"

    def signed(video_id: str, user_id: str | None) -> Shown:
        return show(work, video_id, url_seconds=seconds, plays=codecs, user_id=user_id, counts=counts)

    shown = for_video(work.engine, video_id, viewer.user_id, signed)
    return RedirectResponse(shown.url, 307, {"Cache-Control": "no-store"})  # the next view is counted too


class Deleted(BaseModel):
    """A video that was deleted for its user."""

    video_id: str
    user_id: str
    restorable_until: datetime = Field(
        description="Until then, the bytes are kept, and an operator can restore the video"
    )


@router.delete(
    "/videos/{video_id:id}",
    summary="Delete a video for its user",
    dependencies=[WRITE],
    responses=documented(404, 409),
)
def delete_video(
    video_id: VideoId,
    app_state: CurrentState,
    caller: Annotated[Caller, needs(Scope.DELETIONS)],
    whose: Annotated[Whose, Query()],
) -> Deleted:
    """Stop serving the video now, and purge its bytes after the grace. A held video is refused. Safe to repeat."""
    engine, run_id = app_state.workspace.engine, f"delete-{uuid4().hex[:12]}"

    def deleted(video_id: str, user_id: str | None) -> lifecycle.Deleted:
        return lifecycle.delete(engine, video_id, by=caller.name, run_id=run_id, user_id=user_id)

    gone = for_video(engine, video_id, whose.user_id, deleted)
    return Deleted(**gone._asdict())


class Kept(BaseModel):
    """A video whose retention was extended."""

    video_id: str
    until: datetime = Field(description="No rule retires the video before this time")
    times: int = Field(description="Number of extensions so far, including this one")


@router.post(
    "/videos/{video_id:id}/keep",
    summary="Extend a video's retention at its user's request",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(404, 409),
)
def keep_video(
    video_id: VideoId,
    key: IdempotencyKey,
    app_state: CurrentState,
    caller: Annotated[Caller, needs(Scope.KEEPS)],
    whose: Annotated[Whose, Query()],
) -> Kept:
    """Extend retention by the tier's `keep_days`, up to `lifecycle.keep_times` times; once per idempotency key."""
    engine = app_state.workspace.engine

    def kept(video_id: str, user_id: str | None) -> notices.Kept:
        return prolong(engine, video_id, by=caller.name, key=key, user_id=user_id)

    return Kept(**for_video(engine, video_id, whose.user_id, kept)._asdict())


@router.post(
    "/views",
    summary="Report views in bulk",
    dependencies=[needs(Scope.VIEWS), WRITE],
    responses=documented(),
)
def report_views(body: Views, app_state: CurrentState) -> Counted:
    """Add views. A report sent twice counts twice, which can only keep a video longer."""
    now = datetime.now(UTC)
    at = body.at or now
    if not now - timedelta(days=KEPT_DAYS) <= at <= now + _AHEAD:
        raise InputRefused(f"`at` is {at.isoformat()}, not within the last {KEPT_DAYS} days; nothing was counted")
    sums: dict[str, int] = {}
    for view in body.views:
        sums[view.video_id] = sums.get(view.video_id, 0) + view.views
    unknown = record_views(app_state.workspace.engine, sums, at=min(at, now).astimezone(UTC))
    return Counted(counted=len(sums) - len(unknown), unknown=unknown)
