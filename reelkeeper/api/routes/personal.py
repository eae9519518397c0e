"""A user's rights to their data: export a copy, and erase everything."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path as File
from typing import Annotated, Any, Final
from uuid import uuid4

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from reelkeeper.adapters.ffmpeg.intake import scratch_dir
from reelkeeper.api.app_state import CurrentState, needs
from reelkeeper.api.load import EXPORT, REMOVAL
from reelkeeper.api.paths import UserId
from reelkeeper.api.problems import documented
from reelkeeper.api.routes.takedowns import AtVendor
from reelkeeper.model.token_scopes import Caller, Scope
from reelkeeper.operations.removals import erase as operation
from reelkeeper.operations.videos.export import export as write_export
from reelkeeper.operations.videos.service_files import Belongs
from reelkeeper.settings import settings

router = APIRouter(prefix="/v1/users/{user_id:id}", tags=["users"])
_WAIT_SECONDS: Final = 5.0  # for running jobs to end, while the caller waits
_CHUNK_BYTES: Final = 1 << 18
_ZIP: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}


class Left(BaseModel):
    """Data that an erasure cannot delete yet."""

    why: str = Field(description="Why the data is kept")
    until: datetime | None = Field(description="When this reason ends; null: unknown")
    key: str | None = Field(description="Key of an object that is still stored")


class ServiceFile(BaseModel):
    """A file of the service's own, such as a thumbnail."""

    key: str
    size_bytes: int
    by: Belongs = Field(
        description="`pattern`: in the user's folder, as a key pattern says; `name`: beside a video; `folder`: in a "
        "folder with the user's name, and no pattern matches"
    )
    upload_id: str = Field(description="Id of a multipart upload that was never completed; empty: an object")


class Erasure(BaseModel):
    """The state of a user's erasure."""

    state: str = Field(description="`erased`, or `under way`: check again later, see `left`")
    pseudonym: str = Field(
        description="Pseudonym of the user in the ledger and the audit record; it cannot be traced back"
    )
    since: datetime
    until: datetime | None = Field(description="When the erasure can be completed, if known")
    left: list[Left]
    rows: dict[str, int] = Field(description="Number of rows erased, by table")
    versions: str = Field(description="Why deleted bytes stay stored as versions in the bucket; empty: none do")
    vendors: list[AtVendor] = Field(description="What became of the copies of those who made the user's videos")
    files: list[ServiceFile] = Field(description="The service's own files that stay: delete them by these keys")
    files_deleted: int = Field(description="Number of the service's own files deleted, by `with_files`")
    uploads_unknown: bool = Field(description="The server does not list unfinished uploads, so some may stay stored")

    @classmethod
    def of(cls, found: operation.Erasure) -> "Erasure":
        """Build the answer from the state of an erasure."""
        return cls(
            state="under way" if found.left else "erased",
            pseudonym=found.pseudonym,
            since=found.since,
            until=found.until,
            left=[Left(**item._asdict()) for item in found.left],
            rows=found.rows,
            versions=found.versions,
            vendors=[AtVendor(**item._asdict()) for item in found.vendors],
            files=[
                ServiceFile(key=file.key, size_bytes=file.size_bytes, by=file.by, upload_id=file.upload_id)
                for file in found.files
            ],
            files_deleted=found.files_deleted,
            uploads_unknown=found.uploads_unknown,
        )


@router.delete("", summary="Erase a user", dependencies=[REMOVAL], responses=documented(404, 409))
def erase_user(
    user_id: UserId,
    app_state: CurrentState,
    caller: Annotated[Caller, needs(Scope.ERASE)],
    *,
    with_files: Annotated[bool, Query(description="Delete the service's own files in the user's folder, too")] = False,
) -> Erasure:
    """Delete the user's videos, images, prompts and names now and for good. Repeat until `state` is `erased`.

    From the first call on, nothing new is accepted for the user. After the erasure, the user is not found, and can sign
    up again with the same id.
    """
    found = operation.erase(
        app_state.workspace,
        user_id,
        by=caller.name,
        run_id=f"erase-{uuid4().hex[:12]}",
        settings=settings(),
        wait_seconds=_WAIT_SECONDS,
        with_files=with_files,
    )
    return Erasure.of(found)


@router.get(
    "/export",
    summary="Export all data of a user as a ZIP file",
    dependencies=[needs(Scope.EXPORT), EXPORT],
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": _ZIP}}, **documented(404, 409, 410, 502)},
)
def export_user(user_id: UserId, app_state: CurrentState) -> StreamingResponse:
    """Return all rows, videos and images, except what was taken down. `missing.txt` lists unreadable objects."""
    with ExitStack() as kept:
        app_state.scratch.mkdir(parents=True, exist_ok=True)
        # guard export.swept: all data of a user stays on the disk of an API that was killed meanwhile
        folder = kept.enter_context(scratch_dir(app_state.scratch))
        done = write_export(app_state.workspace, user_id, folder / "export.zip")
        headers = {
            "Content-Length": str(done.size_bytes),
            "Content-Disposition": 'attachment; filename="export.zip"',
            "Cache-Control": "no-store",
        }
        return StreamingResponse(
            _chunks(File(done.path), kept.pop_all()), media_type="application/zip", headers=headers
        )


def _chunks(path: File, kept: ExitStack) -> Iterator[bytes]:
    """Yield a file in chunks; delete it when it was sent or the caller disconnected."""
    with kept, path.open("rb") as file:
        yield from iter(lambda: file.read(_CHUNK_BYTES), b"")
