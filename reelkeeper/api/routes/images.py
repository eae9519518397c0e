"""Input images of jobs, uploaded before the job that uses them."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from reelkeeper import disk
from reelkeeper.adapters.ffmpeg.intake import SCRATCH, SCRATCH_REMEDY
from reelkeeper.api.app_state import CurrentState, needs
from reelkeeper.api.load import UPLOAD, Loaded
from reelkeeper.api.problems import documented
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core.workspace import flush_operations
from reelkeeper.operations.videos import images

PATH: Final = "/v1/images"
router = APIRouter(prefix=PATH, tags=["jobs"])
_CHUNK_BYTES: Final = 1 << 18  # received before they are written
_DISK: Final = CapacityLimiter(2)  # threads that write the received bytes, apart from those of the routes
_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"image/png": _BINARY, "image/jpeg": _BINARY}}
}


class Image(BaseModel):
    """A stored image."""

    sha256: str = Field(description="SHA-256 of the image, to be used as `image_sha256` of a request")
    size_bytes: int
    content_type: str


@router.post(
    "",
    summary="Upload an input image for jobs",
    dependencies=[needs(Scope.JOBS), UPLOAD],
    responses=documented(),
    openapi_extra=_BODY,
)
async def upload_image(request: Request, app_state: CurrentState, load: Loaded) -> Image:
    """Store a PNG or JPEG of at most 10 MB, and return its SHA-256. Safe to repeat."""
    full = disk.watched(app_state.scratch, SCRATCH, SCRATCH_REMEDY)
    with full, await run_sync(_file, app_state.scratch, limiter=_DISK) as file:  # a slow body takes disk, not memory
        await _receive(request, file)
        async with load.images.turn(), load.work.turn():
            data = await run_sync(_read_all, file)
            kept = await run_sync(images.keep, app_state.workspace, data)
            await run_sync(flush_operations, app_state.workspace.engine, app_state.workspace.bucket)
    return Image.model_validate(kept._asdict())


def _file(folder: Path) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    return TemporaryFile(dir=folder)


async def _receive(request: Request, file: IO[bytes]) -> None:
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) >= _CHUNK_BYTES:
            await run_sync(file.write, bytes(held), limiter=_DISK)
            held.clear()
    await run_sync(file.write, bytes(held), limiter=_DISK)


def _read_all(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
