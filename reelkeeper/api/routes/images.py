"""Images that videos begin with, sent before the job that names one."""

from threading import BoundedSemaphore
from typing import Any, Final

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from reelkeeper.api.backing import Stands, needs
from reelkeeper.api.problems import documented
from reelkeeper.errors import LeaseLost
from reelkeeper.model.access import Scope
from reelkeeper.operations import images
from reelkeeper.operations.metering import flush_operations

PATH: Final = "/v1/images"
router = APIRouter(prefix=PATH, tags=["jobs"])
_AT_ONCE: Final = BoundedSemaphore(4)  # whose bytes are in memory
_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"image/png": _BINARY, "image/jpeg": _BINARY}}
}


class Image(BaseModel):
    """An image that is kept."""

    sha256: str = Field(description="`image_sha256` of a request")
    size_bytes: int
    content_type: str


@router.post(
    "",
    summary="Keep an image for jobs to start from",
    dependencies=[needs(Scope.JOBS)],
    responses=documented(409),
    openapi_extra=_BODY,
)
async def keep(request: Request, stands: Stands) -> Image:
    """Take a PNG or JPEG of at most 10 MB, and give its SHA-256. The same again changes nothing."""
    if not _AT_ONCE.acquire(blocking=False):
        raise LeaseLost("other images are being taken in; try again in some seconds")
    try:
        data = await request.body()
        kept = await run_sync(images.keep, stands.depot, data)
    finally:
        _AT_ONCE.release()
    await run_sync(flush_operations, stands.depot.engine, stands.depot.bucket)
    return Image.model_validate(kept._asdict())
