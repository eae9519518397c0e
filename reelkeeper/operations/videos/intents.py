"""Write-ahead intents: a new object is announced in the store, put, verified as stored, and only then published.

    announce (commit) --put--> --read back and verify--> publish (commit)

`swap` and `upload` share this. Killed anywhere, `settle` finishes or abandons the intent with the same code: what is
stored as announced is published, anything else becomes a retired blob and waits for the purge like every other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper import disk
from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import SCRATCH, SCRATCH_REMEDY, desk
from reelkeeper.errors import IntegrityDoubt, NotAVideo, ObjectMissing
from reelkeeper.failpoints import effect
from reelkeeper.model import BlobState, Grace, MediaLimits, Outcome, Recorded, VideoState
from reelkeeper.operations.billing import quota
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.operations.videos import cache
from reelkeeper.private_files import make_folder
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import changed, now, reading, transaction
from reelkeeper.store.core.leases import Grant
from reelkeeper.store.tables import blobs, operations, videos
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.conditions import retired

_DECODED_TOLERANCE_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Intent:
    """An open operation and the new blob that it announces."""

    id: str
    kind: str  # swap, upload
    run_id: str
    video_id: str
    user_id: str
    old_blob_id: int | None
    old_bytes: int
    new_blob_id: int
    generation: int  # of the video when announced
    key: str
    size_bytes: int
    sha256: str
    content_type: str
    codec: str
    frames: int
    duration_seconds: float
    reservation: str | None  # of the bytes, which are settled or released with the intent


@contextmanager
def workplace(scratch: Path, needed_bytes: int) -> Iterator[Path]:
    """Give a private folder for one video at work, gone afterwards. Raises DiskFull without room for `needed_bytes`."""
    require_room(scratch, needed_bytes)
    with disk.watched(scratch, SCRATCH, SCRATCH_REMEDY):
        make_folder(scratch)
    with desk(scratch) as place:
        yield place


def require_room(scratch: Path, needed_bytes: int) -> None:
    """Raise DiskFull where scratch has no room for a video at work that takes `needed_bytes` there."""
    disk.require(scratch, SCRATCH, SCRATCH_REMEDY, disk.FLOOR_BYTES + needed_bytes)


def announce(session: Session, blob: dict[str, Any], operation: dict[str, Any]) -> Intent:
    """Write the pending blob and the open operation; the caller's transaction commits them.

    The blob's ETag is announced too: a single PUT has the MD5 of its bytes, so that an abandoned one can be purged.
    A second open operation on the same video breaks a unique index: IntegrityError, and nothing is written.
    """
    blob_id: int = session.execute(
        sa.insert(blobs)
        .values(state=BlobState.PENDING, stored_at=now(session), run_id=operation["run_id"], **blob)
        .returning(blobs.c.id)
    ).scalar_one()
    return _open(session, blob_id, operation)


def adopt(session: Session, blob_id: int, known: dict[str, Any], operation: dict[str, Any]) -> Intent:
    """Announce as `announce` does, for a pending blob that somebody else has put and of which all is `known` by now."""
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id == blob_id, blobs.c.state == BlobState.PENDING)
        .values(video_id=operation["video_id"], run_id=operation["run_id"], **known)
    )
    return _open(session, blob_id, operation)


def _open(session: Session, blob_id: int, operation: dict[str, Any]) -> Intent:
    at = now(session)
    intent_id = uuid4().hex
    session.execute(
        sa.insert(operations).values(
            id=intent_id, state="open", new_blob_id=blob_id, created_at=at, updated_at=at, **operation
        )
    )
    return _intents(session, operations.c.id == intent_id)[0]


def open_intents(depot: Depot, video_id: str | None = None) -> list[Intent]:
    """List what killed runs left open, of one video or of all; also what is being done at this moment."""
    wanted = operations.c.state == "open"
    with reading(depot.engine) as session:
        return _intents(session, wanted if video_id is None else sa.and_(wanted, operations.c.video_id == video_id))


def _intents(session: Session, wanted: sa.ColumnElement[bool]) -> list[Intent]:
    old = blobs.alias("old")
    rows = session.execute(
        sa.select(
            operations.c.id,
            operations.c.kind,
            operations.c.run_id,
            operations.c.video_id,
            videos.c.user_id,
            operations.c.old_blob_id,
            sa.func.coalesce(old.c.size_bytes, 0),
            operations.c.new_blob_id,
            operations.c.generation,
            blobs.c.key,
            blobs.c.size_bytes,
            blobs.c.sha256,
            blobs.c.content_type,
            blobs.c.codec,
            blobs.c.frames,
            blobs.c.duration_seconds,
            operations.c.detail["reservation"].as_string(),
        )
        .select_from(
            operations.join(blobs, blobs.c.id == operations.c.new_blob_id)
            .join(videos, videos.c.id == operations.c.video_id)
            .outerjoin(old, old.c.id == operations.c.old_blob_id)
        )
        .where(wanted)
        .order_by(operations.c.created_at)
    )
    return [Intent(*row) for row in rows]


def put(depot: Depot, intent: Intent, source: Path) -> None:
    """Put the announced object. Raises KeyTaken if something else already stands at its key."""
    with effect(f"{intent.kind}.put"):
        depot.bucket.put_once(intent.key, source, intent.content_type)


def settle(depot: Depot, intent: Intent, *, scratch: Path, grant: Grant, grace: Grace) -> Outcome:
    """Verify what is stored at the announced key, then publish it or abandon the intent.

    The caller holds the video's lease. Raises Frozen or LeaseLost, and leaves the intent open for a later run.
    """
    wrong = _verify(depot, intent, scratch) or _overwritten_source(depot, intent)
    with transaction(depot.engine, f"{intent.kind}.publish") as session:
        require_permission(session, grant)
        with quotas.counted(session, videos.c.id == intent.video_id):
            moved = wrong is None and _move_pointer(session, intent)
        outcome = wrong or ("published" if moved else "meanwhile the video was held, replaced or retired")
        if not _close(session, intent, published=moved, outcome=outcome, grace=grace):
            return Outcome(intent.video_id, "skipped", "another run has settled it", intent.old_bytes, intent.old_bytes)
        if moved:
            _retire_old(session, intent, grace)
            if intent.kind == "upload" and intent.old_blob_id is not None:
                cache.drop(session, [intent.video_id])  # it shows something else now
        if intent.reservation:
            (quota.settle if moved else quota.release)(session, intent.reservation)
        detail = {"key": intent.key, "before_bytes": intent.old_bytes, "after_bytes": intent.size_bytes, "was": outcome}
        event = intent.kind if moved else f"{intent.kind}_abandoned"
        append(session, [Event(event, intent.run_id, intent.video_id, intent.new_blob_id, intent.user_id, detail)])
    if moved:
        done = {"swap": "compressed", "upload": "uploaded"}[intent.kind]
        return Outcome(intent.video_id, done, outcome, intent.old_bytes, intent.size_bytes, intent.old_blob_id)
    action = "failed" if wrong else "skipped"
    return Outcome(intent.video_id, action, outcome, intent.old_bytes, intent.old_bytes, intent.old_blob_id)


def _verify(depot: Depot, intent: Intent, scratch: Path) -> str | None:
    """Why what is stored may not be published, or None if it may."""
    with workplace(scratch, intent.size_bytes) as place:
        back = place / f"back{Path(intent.key).suffix}"
        try:
            with effect(f"{intent.kind}.readback"):
                depot.bucket.download(intent.key, back)
            verify_stored(back, intent)
        except (ObjectMissing, IntegrityDoubt, NotAVideo) as wrong:
            return str(wrong)
    return None


def _overwritten_source(depot: Depot, intent: Intent) -> str | None:
    """Say that the service has overwritten the bytes that a swap was made of; None where it has not, or cannot."""
    if intent.kind != "swap":
        return None
    columns = (blobs.c.key, *(blobs.c[name] for name in Recorded._fields))
    with reading(depot.engine) as session:
        row = session.execute(sa.select(*columns).where(blobs.c.id == intent.old_blob_id)).one()
    if row.is_ours:
        return None
    found = depot.bucket.head(row.key)
    if found is not None and Recorded(*row[1:]).matches(found):
        return None
    return f"meanwhile the service has overwritten or deleted {row.key}"


def _move_pointer(session: Session, intent: Intent) -> bool:
    first = intent.old_blob_id is None
    return bool(
        changed(
            session,
            sa.update(videos)
            .where(
                videos.c.id == intent.video_id,
                videos.c.state == (VideoState.PENDING if first else VideoState.LIVE),
                videos.c.blob_id.is_(None) if first else videos.c.blob_id == intent.old_blob_id,
                videos.c.generation == intent.generation,
                ~conditions.held(videos.c.id, videos.c.user_id, now(session)),
            )
            .values(
                state=VideoState.LIVE,
                blob_id=intent.new_blob_id,
                generation=intent.generation if first else intent.generation + 1,
                run_id=intent.run_id,
            ),
        )
    )


def _close(session: Session, intent: Intent, *, published: bool, outcome: str, grace: Grace) -> bool:
    """End the intent; False when another run has already ended it. An abandoned blob is swept like a retired one."""
    at = now(session)
    ended = changed(
        session,
        sa.update(operations)
        .where(operations.c.id == intent.id, operations.c.state == "open")
        .values(state="done" if published else "abandoned", outcome=outcome, updated_at=at),
    )
    if not ended:
        return False
    fate: dict[str, Any] = {"state": BlobState.LIVE} if published else retired(at, grace, outcome)
    session.execute(
        sa.update(blobs).where(blobs.c.id == intent.new_blob_id, blobs.c.state == BlobState.PENDING).values(**fate)
    )
    if not published:
        session.execute(
            sa.update(videos)
            .where(videos.c.id == intent.video_id, videos.c.state == VideoState.PENDING)
            .values(state=VideoState.GONE)
        )
    return True


def _retire_old(session: Session, intent: Intent, grace: Grace) -> None:
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id == intent.old_blob_id, blobs.c.state == BlobState.LIVE)
        .values(run_id=intent.run_id, **retired(now(session), grace, f"replaced by {intent.key}"))
    )


class Expected(Protocol):
    """What was announced of an object before it was put: an intent or a transcode says it alike."""

    @property
    def sha256(self) -> str: ...  # noqa: D102  the bytes
    @property
    def size_bytes(self) -> int: ...  # noqa: D102  its name says it
    @property
    def codec(self) -> str: ...  # noqa: D102  its name says it
    @property
    def frames(self) -> int: ...  # noqa: D102  its name says it
    @property
    def duration_seconds(self) -> float: ...  # noqa: D102  of the video stream


def verify_stored(path: Path, expected: Expected, limits: MediaLimits | None = None) -> None:
    """Check a file read back from the bucket against what was announced, down to its last frame.

    Raises IntegrityDoubt where bytes, codec, frames or duration differ, NotAVideo where it does not decode to its end.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = file_digest(file, "sha256").hexdigest()
    if (size, sha256) != (expected.size_bytes, expected.sha256):
        raise IntegrityDoubt(
            f"stored: {size} bytes, sha256 {sha256}; announced: {expected.size_bytes} bytes, {expected.sha256}"
        )
    media = ffmpeg.inspect(path, limits)
    decoded = ffmpeg.decode(path, media, limits)
    if media.codec != expected.codec or decoded.frames != expected.frames:
        raise IntegrityDoubt(
            f"decoded: {decoded.frames} frames of {media.codec}; announced: {expected.frames} of {expected.codec}"
        )
    if not abs(decoded.duration_seconds - expected.duration_seconds) <= _DECODED_TOLERANCE_SECONDS:
        raise IntegrityDoubt(f"decoded: {decoded.duration_seconds:.3f} s; announced: {expected.duration_seconds:.3f} s")
