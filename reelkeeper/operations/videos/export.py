"""Export a user's data as one ZIP: the store's rows, and the videos, their thumbnails, and images themselves."""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from reelkeeper import disk
from reelkeeper.adapters.s3.keys import key_name
from reelkeeper.disk import make_file
from reelkeeper.errors import LeaseLost, StorageError
from reelkeeper.failpoints import effect
from reelkeeper.operations.billing.users import present
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos import images, service_files
from reelkeeper.operations.videos.service_files import Belongs
from reelkeeper.store.core.engine import reading
from reelkeeper.store.videos import user_data
from reelkeeper.store.videos.user_data import StoredVideo

_BATCH: Final = 500
_DISK: Final = "the disk of the export"
_REMEDY: Final = "Export to a folder with more room"


class Exported(NamedTuple):
    """The contents of an export. `missing` names the objects that could not be read, with the reason."""

    path: str
    rows: dict[str, int]
    videos: int
    images: int
    size_bytes: int
    missing: tuple[str, ...]
    beside: int = 0  # the service's files that are the user's, such as thumbnails, and objects that no video's row has
    left_out: tuple[str, ...] = ()  # keys of which only the folder says whose they are, and of unfinished uploads


def export(workspace: Workspace, user_id: str, target: Path) -> Exported:
    """Write all data of a user to `target`, a ZIP that only its owner can read; it appears when it is complete.

    `data/TABLE.jsonl` has a row on each line; `videos/ID.EXT`, `images/SHA256` and `beside/KEY`, what the last listing
    saw of the service's beside the videos, such as thumbnails, are as stored; what is no file name is escaped. Videos
    taken down are left out, with what is beside them; unreadable objects are named in `missing` and in `missing.txt`.
    Raises NotFound for an unknown user, UserErased; LeaseLost for one who is renamed meanwhile; FileExistsError, so
    that no earlier export is lost; DiskFull.
    """
    user_id = _present(workspace, user_id)
    if target.exists():
        raise FileExistsError(f"{target} already exists; choose another file")
    missing: list[str] = []
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    make_file(partial)
    try:
        with (
            disk.watched(target.parent, _DISK, _REMEDY),
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            counts = _write_rows(workspace, user_id, archive)
            names = set[str]()
            videos = sum(_add_video(workspace, archive, video, missing, names) for video in _videos(workspace, user_id))
            files, left_out = _beside(workspace, user_id)
            beside = sum(_add_other(workspace, archive, key, missing, names) for key in files)
            pictures = sum(_add_image(workspace, archive, sha256, missing) for sha256 in _images(workspace, user_id))
            if missing:
                archive.writestr("missing.txt", "".join(f"{line}\n" for line in missing))
        # guard export.renamed: an export of a user who was renamed or erased meanwhile passes for whole, and is not
        if _present(workspace, user_id) != user_id:
            raise LeaseLost(f"user {user_id!r} was renamed during the export; nothing was written. Try again")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return Exported(
        str(target), counts, videos, pictures, target.stat().st_size, tuple(missing), beside, tuple(left_out)
    )


def _present(workspace: Workspace, user_id: str) -> str:
    with reading(workspace.engine) as session:
        return present(session, user_id)


def _write_rows(workspace: Workspace, user_id: str, archive: zipfile.ZipFile) -> dict[str, int]:
    counts = {}
    with reading(workspace.engine) as session:
        for table, rows in user_data.rows(session, user_id):
            with archive.open(f"data/{table}.jsonl", "w", force_zip64=True) as file:
                counts[table] = sum(
                    1 for row in rows if file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                )
    return counts


def _videos(workspace: Workspace, user_id: str) -> Iterator[StoredVideo]:
    after = ""
    while True:
        with reading(workspace.engine) as session:
            batch = user_data.stored_videos(session, user_id, after, _BATCH)
        if not batch:
            return
        yield from batch
        after = batch[-1].video_id


def _images(workspace: Workspace, user_id: str) -> list[str]:
    with reading(workspace.engine) as session:
        return user_data.images(session, user_id)


def _beside(workspace: Workspace, user_id: str) -> tuple[list[str], list[str]]:
    """List the keys of the user's files and objects without a row, and of files that may be another's."""
    # guard export.taken_down_beside: an export contains thumbnails of videos that were taken down
    found = [file for file in service_files.of_user(workspace, user_id) if not file.is_down]
    # guard export.beside: an export has files of which nothing but the folder says whose they are
    theirs = [file.key for file in found if file.by != Belongs.FOLDER]
    # guard export.taken_down_loose: an export contains a further file of a video that was taken down
    theirs += [item.key for item in service_files.loose_of_user(workspace, user_id) if not item.is_down]
    uploads = service_files.uploads_of_user(workspace, user_id) or ()
    return theirs, [file.key for file in (*found, *uploads) if file.by == Belongs.FOLDER or file.upload_id]


@contextmanager
def _room(archive: zipfile.ZipFile) -> Iterator[Path]:
    """Make a temporary file for one object beside the archive, on a disk that has room for both."""
    with tempfile.TemporaryDirectory(dir=Path(str(archive.filename)).parent, prefix=".export-") as folder:
        yield Path(folder) / "object"


def _add_video(
    workspace: Workspace, archive: zipfile.ZipFile, video: StoredVideo, missing: list[str], names: set[str]
) -> bool:
    name = _apart(f"videos/{key_name(video.video_id)}", names) + Path(video.key).suffix
    return _add(workspace, archive, (video.key, video.etag), name, missing, f"video {video.video_id}")


def _add_other(workspace: Workspace, archive: zipfile.ZipFile, key: str, missing: list[str], names: set[str]) -> bool:
    rest = key.removeprefix(workspace.bucket.prefix)
    name = _apart(f"beside/{quote(rest)}", names)
    return _add(workspace, archive, (key, None), name, missing, f"file {key}")


def _add(
    workspace: Workspace,
    archive: zipfile.ZipFile,
    stored: tuple[str, str | None],
    name: str,
    missing: list[str],
    what: str,
) -> bool:
    """Add the object at a key, with its ETag where one is known, as `name`."""
    with _room(archive) as place:
        try:
            with effect("export.read"):
                workspace.bucket.download(stored[0], place, etag=stored[1])
        except StorageError as error:
            missing.append(f"{what}: {error}")
            return False
        archive.write(place, name, zipfile.ZIP_STORED)
    return True


def _apart(name: str, names: set[str]) -> str:
    """Return a file's name, numbered if only case tells it from another's."""
    # guard export.apart: one video replaces another where the archive is unpacked
    if name.casefold() in names:
        name += f"={len(names)}"
    names.add(name.casefold())
    return name


def _add_image(workspace: Workspace, archive: zipfile.ZipFile, sha256: str, missing: list[str]) -> bool:
    with _room(archive) as place:
        try:
            found = images.fetch(workspace.bucket, sha256, place)
        except StorageError as error:
            missing.append(f"image {sha256}: {error}")
            return False
        if found:
            archive.write(place, f"images/{sha256}", zipfile.ZIP_STORED)
        else:
            missing.append(f"image {sha256}: not kept any more")
    return found
