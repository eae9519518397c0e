"""Store new objects by write-ahead intents: announce, put, verify what is stored, and only then publish.

    announce (commit) --put--> --read back and verify--> publish (commit)

`swap`, `upload` and `restore` share this; `new_key` and `in_place` say what is stored, and how it is undone. After a
kill at any point, `settle` finishes or abandons the intent by the same code: bytes stored as announced are published,
and anything else becomes a retired blob and waits for the purge like any other.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

from reelkeeper import disk
from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import SCRATCH, SCRATCH_REMEDY, scratch_dir
from reelkeeper.disk import make_folder
from reelkeeper.errors import DiskFull, IntegrityDoubt, LeaseLost, NoRoom, NotAVideo, ObjectMissing
from reelkeeper.failpoints import effect
from reelkeeper.model import Grace, MediaLimits, Outcome, VideoState
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.billing import quota
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos import in_place
from reelkeeper.operations.videos.hold import place as place_hold
from reelkeeper.operations.videos.new_key import NewKey
from reelkeeper.store import Session
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.audit import Event
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import notices
from reelkeeper.store.removals import takedowns
from reelkeeper.store.videos import cache, uploads
from reelkeeper.store.videos import in_place as in_place_rows
from reelkeeper.store.videos import intents as rows
from reelkeeper.store.videos.holds import HoldTerms
from reelkeeper.store.videos.intents import Intent

_DECODED_TOLERANCE_SECONDS: Final = 0.1


@contextmanager
def workplace(scratch: Path, needed_bytes: int) -> Iterator[Path]:
    """Make a private folder for work on one video. Raises as `require_room`."""
    require_room(scratch, needed_bytes)
    with disk.watched(scratch, SCRATCH, SCRATCH_REMEDY):
        make_folder(scratch)
    with scratch_dir(scratch) as place:
        yield place


def require_room(scratch: Path, needed_bytes: int, there_bytes: int = 0) -> None:
    """Raise DiskFull where the scratch folder's disk is full, NoRoom where it lacks `needed_bytes` beyond.

    `there_bytes` of the video lie there already: if they alone fill it, it has room for others.
    """
    disk.require(scratch, SCRATCH, SCRATCH_REMEDY, disk.FLOOR_BYTES - there_bytes)
    try:
        disk.require(scratch, SCRATCH, SCRATCH_REMEDY, disk.FLOOR_BYTES + needed_bytes)
    except DiskFull as full:
        raise NoRoom(str(full)) from None


def is_too_large(error: Exception, scratch: Path) -> bool:
    """Check whether an error says that a video does not fit on the scratch disk, which has room for others.

    So it is, too, where the disk was full while its folder was there, which is removed by now.
    """
    has_filled = isinstance(error, DiskFull) and disk.is_full(error) and disk.has_room(scratch)
    # guard machines.filled_itself: a clip larger than all that is free ends each run in which it is fetched
    return has_filled or isinstance(error, NoRoom)


def open_intents(workspace: Workspace, video_id: str | None = None) -> list[Intent]:
    """List the open intents of one video or of all, those of killed runs included."""
    with reading(workspace.engine) as session:
        return rows.open_intents(session, video_id)


def settle(workspace: Workspace, intent: Intent, *, scratch: Path, lease: Lease, grace: Grace) -> Outcome:
    """Verify what is stored at the announced key, then publish it or abandon the intent.

    A put in place that is not published is undone first. The caller holds the video's lease. Raises Frozen, StoreBehind
    or LeaseLost, and leaves the intent open for a later run; StorageError, too, while a put may still take effect.
    """
    there = NewKey(workspace, intent) if intent.aside_blob_id is None else in_place.look(workspace, intent)
    # guard publish.verified: a video is published whose bytes were not read back completely
    # guard publish.overwritten_source: a result of the old bytes replaces a new upload of the service
    wrong = there.wrong or _verify(workspace, intent, scratch) or there.overtaken()
    with transaction(workspace.engine, f"{intent.kind}.publish") as session:
        # guard publish.permission: a run publishes new bytes during a freeze, or without its lease
        require_permission(session, lease, despite_freeze=intent.kind == "restore")
        # guard takedown.published: bytes that were taken down are published again
        if wrong is None and takedowns.find_blocked(session, [intent.new_blob_id]):
            wrong = "these bytes were taken down, so they are not published"
        with quotas.counted(session, [intent.video_id]):
            moved = wrong is None and rows.move_pointer(session, intent)
        outcome = wrong or ("published" if moved else "the video was held, replaced or retired meanwhile")
        # guard in_place.put_back: a result stays at the service's key although it is corrupt, or its video is held
        is_undone = there.is_over_old and not moved
        if moved:
            is_own = _publish(session, intent, there, outcome, grace)
        elif is_undone:
            is_own = there.begin_undo(session, outcome)
        else:
            is_own = _abandon(session, intent, there, outcome, grace)
    if not is_own:
        return Outcome(intent.video_id, "skipped", "another run has settled it", intent.old_bytes, intent.old_bytes)
    if is_undone:
        with workplace(scratch, intent.old_bytes) as folder:
            there.put_back(folder, lease)
        return settle(workspace, intent, scratch=scratch, lease=lease, grace=grace)
    action, after_bytes = ("failed" if wrong else "skipped"), intent.old_bytes
    if moved:
        action = {"swap": "compressed", "upload": "uploaded", "restore": "restored"}[intent.kind]
        after_bytes = intent.size_bytes
    return Outcome(intent.video_id, action, outcome, intent.old_bytes, after_bytes, intent.old_blob_id)


def _publish(session: Session, intent: Intent, there: NewKey, outcome: str, grace: Grace) -> bool:
    """End the intent of a video that has its new bytes now. Raises LeaseLost when another run has ended it."""
    there.publish(session, grace)
    if not rows.close(session, intent, published=True, outcome=outcome, grace=grace):
        raise LeaseLost(f"another run has abandoned the object at {intent.key}: nothing was changed")
    rows.retire_old(session, intent, grace)
    if intent.kind == "upload" and intent.old_blob_id is not None:
        cache.drop(session, [intent.video_id])  # the video has other bytes now
    if intent.reservation:
        quota.settle(session, intent.reservation)
    _record(session, intent, there, outcome, moved=True)
    if intent.kind == "restore":
        _hold_restored(session, intent, there)
    return True


def _abandon(session: Session, intent: Intent, there: NewKey, outcome: str, grace: Grace) -> bool:
    """End the intent of a video that stays as it is; False when another run has ended it."""
    if not rows.close(session, intent, published=False, outcome=outcome, grace=grace):
        return False
    there.abandon(session, grace, outcome)
    if intent.reservation:
        quota.release(session, intent.reservation)
        # guard upload_url.why: a caller is told to upload a broken video once more, and not what is wrong with it
        uploads.note_refusal(session, intent.reservation, outcome)
    _record(session, intent, there, outcome, moved=False)
    return True


def _record(session: Session, intent: Intent, there: NewKey, outcome: str, *, moved: bool) -> None:
    detail = {"key": intent.key, "before_bytes": intent.old_bytes, "after_bytes": intent.size_bytes, "was": outcome}
    if intent.machine:
        detail["machine"] = intent.machine
    if there.author:
        detail |= {"by": there.author, "was": VideoState.LIVE if moved else outcome}
    kind = intent.kind if moved else f"{intent.kind}_abandoned"
    event = Event(kind, intent.run_id, intent.video_id, intent.new_blob_id, intent.user_id, detail)
    record(session, [event, *there.replaced(event, moved=moved)])


def _hold_restored(session: Session, intent: Intent, there: NewKey) -> None:
    """Record that a swap in place was undone, and hold the video for the days that its author asked for."""
    in_place_rows.note_taken_back(session, intent)
    notices.end(session, [intent.video_id], "restored")
    # guard in_place.held_after: the next run retires a video whose swap was undone
    if days := there.hold_days:
        until = now(session) + timedelta(days=days)
        place_hold(session, HoldTerms("video", intent.video_id, "restored", there.author, until))


def _verify(workspace: Workspace, intent: Intent, scratch: Path) -> str | None:
    """Return why the stored bytes must not be published; None if they may be."""
    with workplace(scratch, intent.size_bytes) as place:
        back = place / f"back{Path(intent.key).suffix}"
        try:
            with effect(f"{intent.kind}.readback"):
                workspace.bucket.download(intent.key, back)
            # an original is restored even if it does not decode
            (_require_bytes if intent.kind == "restore" else verify_stored)(back, intent)
        except (ObjectMissing, IntegrityDoubt, NotAVideo) as wrong:
            return str(wrong)
    return None


class Expected(Protocol):
    """The announced properties of an object, from an intent or a transcode."""

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
    """Compare a file read back from the bucket with the announced properties, down to its last frame.

    Raises IntegrityDoubt where bytes, codec, frames or duration differ, NotAVideo where it does not decode to its end.
    """
    _require_bytes(path, expected)
    media = ffmpeg.inspect(path, limits)
    # guard publish.decoded: a video is published that does not decode to its end
    decoded = ffmpeg.decode(path, media, limits)
    # guard publish.frames: a video with lost frames is published
    if media.codec != expected.codec or decoded.frames != expected.frames:
        raise IntegrityDoubt(
            f"decoded: {decoded.frames} frames of {media.codec}; announced: {expected.frames} of {expected.codec}"
        )
    # guard publish.duration: a video is published that is shorter or longer than announced
    if not abs(decoded.duration_seconds - expected.duration_seconds) <= _DECODED_TOLERANCE_SECONDS:
        raise IntegrityDoubt(f"decoded: {decoded.duration_seconds:.3f} s; announced: {expected.duration_seconds:.3f} s")


def md5(path: Path) -> str:
    """Return a file's MD5 in hex: the ETag that a single PUT of it gets."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _require_bytes(path: Path, expected: Expected) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # guard publish.stored_bytes: bytes other than the announced ones are published
    if (size, sha256) != (expected.size_bytes, expected.sha256):
        raise IntegrityDoubt(
            f"stored: {size} bytes, sha256 {sha256}; announced: {expected.size_bytes} bytes, {expected.sha256}"
        )
