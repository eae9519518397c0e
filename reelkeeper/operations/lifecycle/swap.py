"""Replace a video's bytes with smaller ones. The old bytes are not deleted here: they wait out their grace.

find --> download --> search --> announce (commit) --put--> --read back and verify--> publish (commit)

`compress` takes these steps one after the other. With a new key, the result is put beside the old bytes; in place, over
them, as `in_place` describes.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.s3.keys import blob_key
from reelkeeper.adapters.s3.r2 import Headers
from reelkeeper.errors import IntegrityDoubt, NotAVideo, ObjectChanged, ObjectLocked, ObjectMissing
from reelkeeper.failpoints import effect
from reelkeeper.model import Grace, Outcome, Refusal, Transcode
from reelkeeper.operations.core import epochs, machine
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos import in_place, intents, new_key
from reelkeeper.operations.videos.upload import CONTENT_TYPES
from reelkeeper.rules.core.wording import NOT_TRIED
from reelkeeper.rules.lifecycle.transcode import (
    BUCKET_LOCK,
    IN_PLACE,
    NOT_IN_PLACE,
    OWN_RESULT,
    RETRIED_MONTHLY,
    Placement,
    mark_of_month,
    why_not_in_place,
)
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import swaps
from reelkeeper.store.lifecycle.swaps import Source
from reelkeeper.store.videos.intents import Intent, announce

_COPIES_AT_WORK = 5  # the source and the encodes of a search, each no larger than the source
_OWN_RESULT = "it is the result of a swap that the store does not know: it stays as it is"


class Run(NamedTuple):
    """The run that swaps, its lease of the video, the grace of the old bytes, and a folder for files at work."""

    id: str
    lease: Lease
    grace: Grace
    scratch: Path


class Original(NamedTuple):
    """A video's bytes on disk, and the headers that they are served with."""

    source: Source
    path: Path
    sha256: str
    headers: Headers
    is_in_place: bool  # the result replaces them at their key


class Skipped(Exception):  # noqa: N818  no error: the video stays as it is, and its outcome says why
    """Ends a swap before its first change."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def find_source(workspace: Workspace, video_id: str, planned_blob_id: int, run: Run) -> Source:
    """Find the bytes that the plan judged, after settling what a killed run left open.

    Raises Skipped where they were replaced, retired or compressed since, or must not be replaced; StoreBehind.
    """
    # guard swap.at_home: a copy of the store puts its results over videos of the original, which cannot undo that
    epochs.require_at_home(workspace.engine)
    for left_open in intents.open_intents(workspace, video_id):
        intents.settle(workspace, left_open, scratch=run.scratch, lease=run.lease, grace=run.grace)
    with reading(workspace.engine) as session:
        source = swaps.find_source(session, video_id)
        # guard swap.planned_bytes: bytes uploaded since the plan are compressed, although the plan judged others
        if source is None or source.blob_id != planned_blob_id:
            before = swaps.done_before(session, planned_blob_id, run.id)
            why = "retired or replaced since the plan"
            raise Skipped(before or Outcome(video_id, "skipped", why, blob_id=planned_blob_id))
    # guard swap.contract: bytes are replaced that cannot be purged, or in a bucket that may ignore If-Match
    if not source.is_ours and not workspace.keeps_contract:
        raise skipped(source, NOT_TRIED)
    return source


def workplace(source: Source, run: Run) -> AbstractContextManager[Path]:
    """Make a private folder for the search of one video. Raises DiskFull without room for it."""
    return intents.workplace(run.scratch, _COPIES_AT_WORK * source.size_bytes)


def download(workspace: Workspace, source: Source, folder: Path, placement: Placement) -> Original:
    """Download a video's bytes. Raises Skipped where the service has replaced them, IntegrityDoubt where others are."""
    path = folder / f"source{Path(source.key).suffix}"
    try:
        with effect("swap.download"):
            # guard swap.etag: a download mixes old bytes with new ones that the service stores meanwhile
            digest = workspace.bucket.download(source.key, path, etag=source.etag)
        headers = workspace.bucket.headers(source.key, source.etag)
    except (ObjectChanged, ObjectMissing):
        if source.is_ours:
            raise
        raise skipped(source, f"the service has overwritten or deleted {source.key}: run sync_catalog") from None
    # guard swap.digest: bytes that changed in the bucket are encoded in place of the recorded ones
    if source.sha256 not in (None, digest):
        raise IntegrityDoubt(f"{source.key}: stored sha256 {digest}, recorded {source.sha256}; not changed")
    return Original(source, path, digest, headers, is_in_place(source, placement))


def is_in_place(source: Source, placement: Placement) -> bool:
    """Check whether a result is put over its source: keys of ours are written once."""
    return placement == IN_PLACE and not source.is_ours


def why_unfit(original: Original) -> Refusal | None:
    """Return why an original stays as it is, whatever a search would find.

    In place: ffprobe takes QuickTime for MP4, but its first bytes differ.
    """
    # guard swap.own_result: a result unknown to a new store, or one from a backup, is compressed again, and worse
    if in_place.is_result(original.headers):
        return Refusal(OWN_RESULT, _OWN_RESULT, OWN_RESULT)
    if not original.is_in_place:
        return None
    try:
        media = ffmpeg.inspect(original.path)
    # guard swap.not_a_video: what is no video fails each night's run, and is never recorded as refused
    except NotAVideo:
        return None  # the search refuses it, with its reason
    with original.path.open("rb") as file:
        start = file.read(12)
    is_mp4 = start[4:8] == b"ftyp" and start[8:12] != b"qt  "
    container = "mp4" if is_mp4 else "QuickTime" if media.container == "mov" else media.container
    unfit = why_not_in_place(media.codec, container, original.source.size_bytes)
    # guard swap.in_place_alike: a link serves another format under the old content type
    return Refusal(NOT_IN_PLACE, unfit, NOT_IN_PLACE, codec=media.codec) if unfit else None


def swap(workspace: Workspace, original: Original, result: Transcode, run: Run) -> Outcome:
    """Replace a video's bytes with a smaller result of the same quality: announce, put, verify, publish.

    Raises Frozen or LeaseLost before the first change, DiskFull when the scratch folder has no room, IntegrityDoubt
    when the stored source differs from the catalogue, and StorageError and the like, with the video untouched, where
    another try may succeed.
    """
    intent = _announce(workspace, original, result, run)
    if intent is None:
        return skipped(original.source, "held, replaced or retired while it was encoded").outcome
    locked = None
    if original.is_in_place:
        locked = _put_in_place(workspace, intent, result, run.lease)
    else:
        # guard swap.headers: the result loses the source's headers, such as Content-Disposition and Cache-Control
        new_key.put(workspace, intent, Path(result.path), in_place.mark(original.headers, intent))
    settled = intents.settle(workspace, intent, scratch=run.scratch, lease=run.lease, grace=run.grace)
    # guard swap.locked: a video under a bucket lock is encoded again every night
    return refuse(workspace, original.source, locked, run) if locked else settled


def refuse(workspace: Workspace, source: Source, refusal: Refusal, run: Run) -> Outcome:
    """Leave a video as it is; a permanent refusal is recorded, and it is not tried again until the recipe changes."""
    if refusal.permanent:
        with transaction(workspace.engine, "swap.refuse") as session:
            # guard swap.refuse_permission: a run records a refusal during a freeze, or without its lease
            require_permission(session, run.lease)
            if refusal.rule in RETRIED_MONTHLY:
                refusal = replace(refusal, recipe=mark_of_month(refusal.recipe, now(session)))
            if swaps.note_refusal(session, source, refusal):
                detail = {"rule": refusal.rule, "why": refusal.reason, "recipe": refusal.recipe}
                append(session, [Event("refuse", run.id, source.video_id, source.blob_id, source.user_id, detail)])
    return Outcome(source.video_id, "refused", refusal.reason, source.size_bytes, source.size_bytes, source.blob_id)


def skipped(source: Source, why: str) -> Skipped:
    """Say why a video is left to a later run."""
    return Skipped(Outcome(source.video_id, "skipped", why, source.size_bytes, source.size_bytes, source.blob_id))


def _put_in_place(workspace: Workspace, intent: Intent, result: Transcode, lease: Lease) -> Refusal | None:
    """Put the result over the original; where a bucket lock keeps it, refuse for this month."""
    try:
        in_place.put(workspace, intent, Path(result.path), lease)
    except ObjectLocked as locked:
        with reading(workspace.engine) as session:
            mark = mark_of_month(BUCKET_LOCK, now(session))
        return Refusal(BUCKET_LOCK, f"{locked}. Tried again next month", mark)
    return None


def _announce(workspace: Workspace, original: Original, result: Transcode, run: Run) -> Intent | None:
    """Announce the result, and in place the copy of the old bytes; None where the video has changed meanwhile."""
    source, prefix, extension = original.source, workspace.bucket.prefix, Path(result.path).suffix[1:]
    about = {
        "video_id": source.video_id,
        "codec": result.media.codec,
        "duration_seconds": result.media.duration_seconds,
        "frames": result.media.frames,
    }
    generation, key, aside = source.generation + 1, source.key, None
    if original.is_in_place:
        aside = about | {
            "generation": source.generation,
            "key": blob_key(prefix, source.user_id, source.video_id, source.generation, "mp4"),
            "size_bytes": source.size_bytes,
            "etag": intents.md5(original.path),
            "sha256": original.sha256,
            "content_type": CONTENT_TYPES["mp4"],
        }
    else:
        key = blob_key(prefix, source.user_id, source.video_id, generation, extension)
    blob = about | {
        "generation": generation,
        "key": key,
        "is_ours": not original.is_in_place,
        "size_bytes": result.size_bytes,
        # guard swap.announced_md5: after a crash, our put in place is mistaken for an upload
        "etag": intents.md5(Path(result.path)),
        "sha256": result.sha256,
        "content_type": CONTENT_TYPES[extension],
        "encoder": result.encoder,
        "recipe": result.recipe,
        "quality_mean": result.quality.mean,
        "quality_p5": result.quality.p5,
    }
    operation: dict[str, Any] = {
        "kind": "swap",
        "video_id": source.video_id,
        "old_blob_id": source.blob_id,
        "generation": source.generation,
        "run_id": run.id,
        "lease_token": run.lease.token,
        "detail": {
            "crf": result.crf,
            "probes": result.probes,
            "cpu_seconds": round(result.cpu_seconds, 3),
            "machine": machine.name(),
        },
    }
    with transaction(workspace.engine, "swap.announce") as session:
        # guard swap.announce_permission: a run stores new bytes during a freeze, or without its lease
        require_permission(session, run.lease)
        # guard swap.unchanged: a video is swapped that was held, replaced or retired while it was encoded
        if not swaps.lock_unchanged(session, source):
            return None
        swaps.note_read(session, source, sha256=original.sha256, codec=result.source_codec)
        return announce(session, blob, operation, aside)
