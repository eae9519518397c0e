"""Replace a video's bytes with smaller ones. The old bytes are not deleted here: they wait out their grace.

download --> shrink --> announce (commit) --put--> --read back and verify--> publish (commit)

With a new key, the result is put beside the old bytes; in place, over them, as `in_place` describes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.s3.keys import blob_key
from reelkeeper.errors import IntegrityDoubt, ObjectChanged, ObjectLocked, ObjectMissing
from reelkeeper.failpoints import effect
from reelkeeper.model import Grace, Outcome, Refusal, Transcode
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle.transcode import Shrinker
from reelkeeper.operations.videos import in_place, intents
from reelkeeper.operations.videos.upload import CONTENT_TYPES
from reelkeeper.rules.core.wording import NOT_TRIED
from reelkeeper.rules.lifecycle.transcode import (
    BUCKET_LOCK,
    IN_PLACE,
    NEW_KEY,
    NOT_IN_PLACE,
    OWN_RESULT,
    PAYBACK,
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


class Order(NamedTuple):
    """An order to compress a video: from which bytes, how, and where the result is put."""

    video_id: str
    blob_id: int  # the video's bytes in the plan
    shrink: Shrinker
    placement: Placement = NEW_KEY


def swap(workspace: Workspace, order: Order, *, scratch: Path, lease: Lease, run_id: str, grace: Grace) -> Outcome:
    """Replace the video's blob with a smaller one of the same quality, if there is one; return an outcome either way.

    An open intent of a killed run is settled first. A video that does not shrink, or not well enough, is recorded with
    the reason and the recipe, and not tried again until the recipe changes. Raises Frozen or LeaseLost before the first
    change, DiskFull when the scratch folder has no room for it, IntegrityDoubt when the stored source differs from the
    catalogue, and MediaTimeout, StorageError and the like, with the video untouched, where another try may succeed.
    """
    video_id = order.video_id
    for left_open in intents.open_intents(workspace, video_id):
        intents.settle(workspace, left_open, scratch=scratch, lease=lease, grace=grace)
    source = _find_source(workspace, order, run_id)
    if isinstance(source, Outcome):
        return source
    is_in_place = order.placement == IN_PLACE and not source.is_ours
    # guard swap.contract: bytes are replaced that cannot be purged, or in a bucket that may ignore If-Match
    if not source.is_ours and not workspace.keeps_contract:
        return Outcome(video_id, "skipped", NOT_TRIED, source.size_bytes, source.size_bytes, source.blob_id)
    with intents.workplace(scratch, _COPIES_AT_WORK * source.size_bytes) as place:
        original = place / f"source{Path(source.key).suffix}"
        try:
            with effect("swap.download"):
                # guard swap.etag: a download mixes old bytes with new ones that the service stores meanwhile
                digest = workspace.bucket.download(source.key, original, etag=source.etag)
            headers = workspace.bucket.headers(source.key, source.etag)
        except (ObjectChanged, ObjectMissing):
            if source.is_ours:
                raise
            why = f"the service has overwritten or deleted {source.key}: run sync_catalog"
            return Outcome(video_id, "skipped", why, source.size_bytes, source.size_bytes, source.blob_id)
        # guard swap.digest: bytes that changed in the bucket are encoded in place of the recorded ones
        if source.sha256 not in (None, digest):
            raise IntegrityDoubt(f"{source.key}: stored sha256 {digest}, recorded {source.sha256}; not changed")
        # guard swap.own_result: a result unknown to a new store, or one from a backup, is compressed again, and worse
        refusal = Refusal(OWN_RESULT, _OWN_RESULT, OWN_RESULT) if in_place.is_result(headers) else None
        # guard swap.in_place_alike: a link serves another format under the old content type
        refusal = refusal or (_refuse_in_place(original, source) if is_in_place else None)
        result = refusal or order.shrink(original, place)
        if isinstance(result, Refusal):
            return _remember(workspace, source, result, lease=lease, run_id=run_id)
        aside = _aside(workspace, source, digest, original, result) if is_in_place else None
        intent = _announce(workspace, source, digest, result, aside, lease=lease, run_id=run_id)
        if intent is None:
            why = "held, replaced or retired while it was encoded"
            return Outcome(video_id, "skipped", why, source.size_bytes, source.size_bytes, source.blob_id)
        locked = None
        if is_in_place:
            locked = _put_in_place(workspace, intent, result, lease)
        else:
            # guard swap.headers: the result loses the source's headers, such as Content-Disposition and Cache-Control
            intents.put(workspace, intent, Path(result.path), in_place.mark(headers, intent))
    settled = intents.settle(workspace, intent, scratch=scratch, lease=lease, grace=grace)
    # guard swap.locked: a video under a bucket lock is encoded again every night
    return _remember(workspace, source, locked, lease=lease, run_id=run_id) if locked else settled


def _find_source(workspace: Workspace, order: Order, run_id: str) -> Source | Outcome:
    """Find the bytes that the plan judged, or the outcome where they were replaced, retired or compressed since."""
    video_id, planned_blob_id = order.video_id, order.blob_id
    with reading(workspace.engine) as session:
        source = swaps.find_source(session, video_id)
        # guard swap.planned_bytes: bytes uploaded since the plan are compressed, although the plan judged others
        if source is None or source.blob_id != planned_blob_id:
            before = swaps.done_before(session, planned_blob_id, run_id)
            return before or Outcome(video_id, "skipped", "retired or replaced since the plan", blob_id=planned_blob_id)
    return source


def _remember(workspace: Workspace, source: Source, refusal: Refusal, *, lease: Lease, run_id: str) -> Outcome:
    if refusal.permanent:
        with transaction(workspace.engine, "swap.refuse") as session:
            # guard swap.refuse_permission: a run records a refusal during a freeze, or without its lease
            require_permission(session, lease)
            if refusal.rule == PAYBACK:
                refusal = replace(refusal, recipe=mark_of_month(refusal.recipe, now(session)))
            if swaps.note_refusal(session, source, refusal):
                detail = {"rule": refusal.rule, "why": refusal.reason, "recipe": refusal.recipe}
                append(session, [Event("refuse", run_id, source.video_id, source.blob_id, source.user_id, detail)])
    return Outcome(source.video_id, "refused", refusal.reason, source.size_bytes, source.size_bytes, source.blob_id)


def _refuse_in_place(original: Path, source: Source) -> Refusal | None:
    """Refuse files that must not be replaced in place. ffprobe takes QuickTime for MP4, but its first bytes differ."""
    media = ffmpeg.inspect(original)
    with original.open("rb") as file:
        start = file.read(12)
    is_mp4 = start[4:8] == b"ftyp" and start[8:12] != b"qt  "
    container = "mp4" if is_mp4 else "QuickTime" if media.container == "mov" else media.container
    unfit = why_not_in_place(media.codec, container, source.size_bytes)
    return Refusal(NOT_IN_PLACE, unfit, NOT_IN_PLACE, codec=media.codec) if unfit else None


def _put_in_place(workspace: Workspace, intent: Intent, result: Transcode, lease: Lease) -> Refusal | None:
    """Put the result over the original; where a bucket lock keeps it, refuse for this month."""
    try:
        in_place.put(workspace, intent, Path(result.path), lease)
    except ObjectLocked as locked:
        with reading(workspace.engine) as session:
            mark = mark_of_month(BUCKET_LOCK, now(session))
        return Refusal(BUCKET_LOCK, f"{locked}. Tried again next month", mark)
    return None


def _aside(workspace: Workspace, source: Source, digest: str, original: Path, result: Transcode) -> dict[str, Any]:
    """Describe the copy of the old bytes that is made before others are put over them."""
    return {
        "video_id": source.video_id,
        "generation": source.generation,
        "key": blob_key(workspace.bucket.prefix, source.user_id, source.video_id, source.generation, "mp4"),
        "size_bytes": source.size_bytes,
        "etag": intents.md5(original),
        "sha256": digest,
        "content_type": CONTENT_TYPES["mp4"],
        "codec": result.media.codec,
        "duration_seconds": result.media.duration_seconds,
        "frames": result.media.frames,
    }


def _announce(
    workspace: Workspace,
    source: Source,
    digest: str,
    result: Transcode,
    aside: dict[str, Any] | None,
    *,
    lease: Lease,
    run_id: str,
) -> Intent | None:
    generation, extension = source.generation + 1, Path(result.path).suffix[1:]
    blob = {
        "video_id": source.video_id,
        "generation": generation,
        "key": source.key
        if aside
        else blob_key(workspace.bucket.prefix, source.user_id, source.video_id, generation, extension),
        "is_ours": aside is None,
        "size_bytes": result.size_bytes,
        # guard swap.announced_md5: after a crash, our put in place is mistaken for an upload
        "etag": intents.md5(Path(result.path)),
        "sha256": result.sha256,
        "content_type": CONTENT_TYPES[extension],
        "codec": result.media.codec,
        "duration_seconds": result.media.duration_seconds,
        "frames": result.media.frames,
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
        "run_id": run_id,
        "lease_token": lease.token,
        "detail": {"crf": result.crf, "probes": result.probes, "cpu_seconds": round(result.cpu_seconds, 3)},
    }
    with transaction(workspace.engine, "swap.announce") as session:
        # guard swap.announce_permission: a run stores new bytes during a freeze, or without its lease
        require_permission(session, lease)
        # guard swap.unchanged: a video is swapped that was held, replaced or retired while it was encoded
        if not swaps.lock_unchanged(session, source):
            return None
        swaps.note_read(session, source, sha256=digest, codec=result.source_codec)
        return announce(session, blob, operation, aside)
