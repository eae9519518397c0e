"""Uploads: videos made elsewhere, which the caller puts directly into the bucket."""

from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Annotated, Final, Literal
from uuid import uuid4

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from reelkeeper.api.app_state import CurrentState, IdempotencyKey, Moment, needs
from reelkeeper.api.load import UPLOAD, WORK, WRITE
from reelkeeper.api.problems import documented
from reelkeeper.errors import LeaseLost
from reelkeeper.model import MediaLimits, requests
from reelkeeper.model.ids import Id
from reelkeeper.model.money import ReservationState
from reelkeeper.model.requests import Tag, Whole
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core.either_id import for_user
from reelkeeper.operations.core.policies import current
from reelkeeper.operations.core.workspace import flush_operations
from reelkeeper.operations.videos import receive
from reelkeeper.operations.videos.complete import complete

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])
_AT_ONCE: Final = BoundedSemaphore(2)  # videos decoded at once; each takes a core
_STATES: Final = {
    ReservationState.OPEN: "open",
    ReservationState.SETTLED: "stored",
    ReservationState.EXPIRED: "expired",
}
UploadId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", examples=["0123456789abcdef0123456789abcdef"])]


class NewUpload(BaseModel):
    """A video to be stored."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "user_id": "ann",
                    "video_id": "v1",
                    "size_bytes": 30_000_000,
                    "md5": "9e107d9d372bb6826bd81d3542a419d6",
                    "extension": "mp4",
                }
            ]
        },
    )

    user_id: Id
    video_id: Id = Field(description="Id of the new video")
    size_bytes: Whole = Field(ge=1, le=MediaLimits().max_size_bytes, description="Exact size in bytes")
    md5: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")] = Field(description="MD5 of the bytes, in hex")
    extension: Literal["mp4", "webm", "mov", "mkv", "m4v"] = "mp4"
    created_at: Moment | None = Field(None, description="When the video was made, from 2000 on; unset: now")
    tag: Tag | None = Field(None, description="Tag for lifecycle segments; the video keeps its first tag")


class Upload(BaseModel):
    """The current state of an upload."""

    id: str
    user_id: str
    video_id: str
    size_bytes: int
    state: Literal["open", "stored", "refused", "expired"]
    reason: str | None = Field(None, description="Why the upload was refused")
    url: str | None = Field(None, description="URL for the PUT of the bytes, with exactly these headers")
    headers: dict[str, str] | None = None
    url_until: datetime


@router.post(
    "",
    summary="Reserve space for a video and get an upload URL",
    status_code=201,
    dependencies=[needs(Scope.UPLOADS), WRITE],
    responses=documented(404, 409, 410),
)
def begin_upload(body: NewUpload, key: IdempotencyKey, app_state: CurrentState) -> Upload:
    """Reserve space for the bytes, and sign a URL that accepts exactly these bytes, once."""
    wanted = receive.Announced(**body.model_dump())
    if wanted.created_at:
        wanted = wanted._replace(created_at=wanted.created_at.astimezone(UTC))
    work, seconds = app_state.workspace, app_state.load.policy.url_seconds
    upload, ticket = for_user(
        work.engine,
        wanted.user_id,
        lambda user_id: receive.begin(work, wanted._replace(user_id=user_id), key, url_seconds=seconds),
    )
    answer = _as_upload(upload)
    return answer.model_copy(update=ticket._asdict()) if ticket else answer


@router.get(
    "/{upload_id}",
    summary="Get the status of an upload",
    dependencies=[needs(Scope.UPLOADS), WORK],
    responses=documented(404),
)
def get_upload(upload_id: UploadId, app_state: CurrentState) -> Upload:
    """Return the upload with its state: open, stored, refused or expired."""
    return _as_upload(receive.find(app_state.workspace, upload_id))


@router.post(
    "/{upload_id}/complete",
    summary="Verify an upload, and publish the video",
    dependencies=[needs(Scope.UPLOADS), UPLOAD, WORK],
    responses=documented(404, 409),
)
def complete_upload(upload_id: UploadId, app_state: CurrentState) -> Upload:
    """Read back the stored bytes, decode all of them, and publish the video. Safe to repeat."""
    if not _AT_ONCE.acquire(blocking=False):
        raise LeaseLost("other uploads are being verified; try again in a few seconds")
    try:
        done = complete(
            app_state.workspace,
            upload_id,
            scratch=app_state.scratch,
            run_id=f"upload-{uuid4().hex[:12]}",
            grace=current(app_state.workspace.engine).policies.lifecycle.grace,
        )
    finally:
        _AT_ONCE.release()
    flush_operations(app_state.workspace.engine, app_state.workspace.bucket)
    return _as_upload(done)


def _as_upload(upload: requests.Upload) -> Upload:
    return Upload.model_validate(
        {
            **{name: getattr(upload, name) for name in ("id", "user_id", "video_id", "size_bytes", "url_until")},
            "state": _STATES.get(ReservationState(upload.state), "refused"),
            "reason": upload.refusal,
        }
    )
