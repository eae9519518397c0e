"""Undo a retirement or a swap, until a purge has begun to delete the bytes.

A restored video is held for some days, or the next run would retire it again by the same rule. Restoring works while
changes are frozen, as it only brings videos back. A swap in place is undone as it was made: its result is copied aside,
and the original put over it, unless the service has stored something else there.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from reelkeeper.adapters.s3.keys import blob_key
from reelkeeper.errors import InputRefused, IntegrityDoubt, NoRoom, NotFound, StorageError
from reelkeeper.failpoints import effect
from reelkeeper.model import Grace, Outcome
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos import in_place, intents
from reelkeeper.operations.videos.hold import place, require_known
from reelkeeper.store.billing import quotas
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import restorable
from reelkeeper.store.lifecycle.restorable import Restorable
from reelkeeper.store.removals import takedowns
from reelkeeper.store.videos.holds import HoldTerms
from reelkeeper.store.videos.intents import Intent, announce

MAX_HOLD_DAYS: Final = 36_500  # a hold without an end is a person's: `reelkeeper hold`
_BATCH: Final = 500  # videos
_ENDED_WITHIN: Final = "the restore ended at it, or at one of its batch: to see what it is now, reelkeeper videos why"
_ENDED_BEFORE: Final = "the restore ended before it"


def find_restorable(
    workspace: Workspace, *, run_id: str | None = None, video_id: str | None = None, user_id: str | None = None
) -> list[Restorable]:
    """Find the videos of one run, one video or one user that can be restored.

    For a run or a single video, retirements and swaps. For a user, retired or lost videos, but not
    those that the user deleted; swaps stay. Raises NotFound for an unknown video or user, and when there are neither
    such videos nor any whose bytes a purge has claimed (see `find_claimed`).
    """
    with reading(workspace.engine) as session:
        for scope, subject in (("video", video_id), ("user", user_id)):
            if subject is not None:
                require_known(session, scope, subject)
        found = restorable.find(session, run_id=run_id, video_id=video_id, user_id=user_id)
    latest = {blob.video_id: blob for blob in found}  # ordered by generation: a video's latest blob comes last
    if not latest and not find_claimed(workspace, run_id=run_id, video_id=video_id, user_id=user_id):
        subject = f"run {run_id}" if run_id else f"video {video_id}" if video_id else f"user {user_id}"
        raise NotFound(f"nothing to restore for {subject}: no video is retired, or its bytes are already purged")
    return list(latest.values())


def find_claimed(
    workspace: Workspace, *, run_id: str | None = None, video_id: str | None = None, user_id: str | None = None
) -> list[Outcome]:
    """List videos that cannot be restored yet because a purge has claimed their bytes, with the time to try again."""
    with reading(workspace.engine) as session:
        claimed = restorable.claimed(session, run_id=run_id, video_id=video_id, user_id=user_id)
    return [Outcome(video, "skipped", why_claimed(until)) for video, until in claimed.items()]


def why_claimed(until: datetime) -> str:
    """Explain that a purge may be deleting a video's bytes, and after when they can be restored if it did not."""
    return f"a purge has claimed its bytes; if they are still stored, they can be restored after {until:%H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class Restorer:
    """Who restores videos, and how long they are held afterwards. `run_id` is that of the command.

    Swaps in place are undone using the folder `scratch`.
    """

    run_id: str
    author: str
    grace: Grace
    hold_days: int
    scratch: Path


def restore(
    workspace: Workspace,
    found: Sequence[Restorable],
    *,
    run_id: str,
    author: str,
    grace: Grace,
    hold_days: int,
    scratch: Path | None = None,
) -> list[Outcome]:
    """Restore videos as `restore_each` does, and return their outcomes; `scratch`: by default, the system's folder."""
    outcomes: list[Outcome] = []
    by = Restorer(run_id, author, grace, hold_days, scratch or Path(tempfile.gettempdir()))
    restore_each(workspace, found, by, outcomes)
    return outcomes


def restore_each(workspace: Workspace, found: Sequence[Restorable], by: Restorer, outcomes: list[Outcome]) -> None:
    """Restore those of `found` whose bytes are stored as recorded, and add what became of each to `outcomes`.

    A batch is one transaction, except for swaps in place, which are undone one by one. An error that speaks for all,
    such as of the store, ends the last batch; `outcomes` has every video then, too. Raises InputRefused or StoreBehind
    before any change of the batch.
    """
    # guard restore.days: a swap is undone whose hold has no end in the calendar, and the video is stuck for ever
    if by.hold_days > MAX_HOLD_DAYS:
        raise InputRefused(f"{by.hold_days:,} days are more than {MAX_HOLD_DAYS:,}; nothing was restored: place a hold")
    for start in range(0, len(found), _BATCH):
        batch = found[start : start + _BATCH]
        try:
            _restore_batch(workspace, batch, by, outcomes)
        # guard restore.all_named: a restore that was ended half-way does not say which videos it did not restore
        except BaseException:  # also Ctrl-C
            known = {outcome.video_id for outcome in outcomes}
            later = found[start + _BATCH :]
            for blobs, action, why in ((batch, "failed", _ENDED_WITHIN), (later, "not_tried", _ENDED_BEFORE)):
                left = [blob for blob in blobs if blob.video_id not in known]
                outcomes += [Outcome(blob.video_id, action, why, blob_id=blob.wanted_blob_id) for blob in left]
            raise


def _restore_batch(workspace: Workspace, batch: Sequence[Restorable], by: Restorer, outcomes: list[Outcome]) -> None:
    # guard restore.announced: another copy of the store purges a video while, or after, this one restores it
    epochs.begin_restore(workspace, [blob.video_id for blob in batch])
    outcomes += _bring_back(workspace, [blob for blob in batch if not blob.is_in_place], by)
    for blob in batch:
        if blob.is_in_place:
            outcomes.append(_exchange(workspace, blob, by))


def _bring_back(workspace: Workspace, batch: Sequence[Restorable], by: Restorer) -> list[Outcome]:
    if not batch:
        return []
    try:
        stored = workspace.bucket.stored([blob.key for blob in batch])
    # guard restore.each_apart: one object that cannot be read keeps the videos of all later batches from coming back
    except StorageError as error:  # the bucket answered just before; where it no longer does, the next batch says so
        return [Outcome(blob.video_id, "failed", str(error), blob_id=blob.wanted_blob_id) for blob in batch]
    outcomes: list[Outcome] = []
    with transaction(workspace.engine, "restore") as session:
        deployment.lock(session)
        blocked = set(takedowns.find_blocked(session, [blob.wanted_blob_id for blob in batch]).values())
        with quotas.counted(session, [blob.video_id for blob in batch]):
            for blob in batch:
                found = stored[blob.key]
                # guard restore.as_recorded: a video is restored to missing bytes, or to bytes other than its own
                # guard restore.stored: a video is restored to missing bytes
                if found is None or not blob.recorded.matches(found):
                    there = "nothing is" if found is None else f"{found.size_bytes} bytes with ETag {found.etag} are"
                    why = f"{there} stored at {blob.key}; recorded: {blob.size_bytes} bytes, ETag {blob.etag}"
                    outcomes.append(Outcome(blob.video_id, "failed", why, blob_id=blob.wanted_blob_id))
                # guard restore.blocked: a copy of what was taken down is restored
                elif blob.wanted_blob_id in blocked:
                    why = "these bytes were taken down, so they are not published"
                    outcomes.append(Outcome(blob.video_id, "failed", why, blob_id=blob.wanted_blob_id))
                elif restorable.bring_back(session, blob, by.run_id, by.grace):
                    outcomes.append(
                        Outcome(blob.video_id, "restored", f"by {by.author}", 0, blob.size_bytes, blob.wanted_blob_id)
                    )
                else:
                    why = "purged, replaced or restored meanwhile"
                    outcomes.append(Outcome(blob.video_id, "skipped", why, blob_id=blob.wanted_blob_id))
        restored = {outcome.video_id for outcome in outcomes if outcome.action == "restored"}
        record(
            session,
            [
                Event(
                    "restore",
                    by.run_id,
                    blob.video_id,
                    blob.wanted_blob_id,
                    blob.user_id,
                    {"by": by.author, "was": blob.state},
                )
                for blob in batch
                if blob.video_id in restored
            ],
        )
        # guard restore.held_after: the next run retires a restored video by the same rule
        if by.hold_days:
            for video_id in sorted(restored):
                until = now(session) + timedelta(days=by.hold_days)
                place(session, HoldTerms("video", video_id, "restored", by.author, until))
    return outcomes


def _exchange(workspace: Workspace, blob: Restorable, by: Restorer) -> Outcome:
    """Undo a swap in place: put the original over its result."""
    with LeaseManager(workspace.engine) as manager:
        taken = manager.take([f"video/{blob.video_id}"])
        if not taken:
            why = "another run is working on it: try again in a minute"
            return Outcome(blob.video_id, "skipped", why, blob_id=blob.wanted_blob_id)
        try:
            outcome = _put_back(workspace, blob, by, taken[0])
        # guard restore.room: an original that is too large for the disk keeps all others from being put back
        except (StorageError, IntegrityDoubt, NoRoom) as error:
            outcome = Outcome(blob.video_id, "failed", str(error))
    if outcome.action == "restored":
        outcome = replace(outcome, reason=f"by {by.author}", before_bytes=0)
    return replace(outcome, blob_id=blob.wanted_blob_id)


def _put_back(workspace: Workspace, blob: Restorable, by: Restorer, lease: Lease) -> Outcome:
    for left_open in intents.open_intents(workspace, blob.video_id):
        outcome = intents.settle(workspace, left_open, scratch=by.scratch, lease=lease, grace=by.grace)
        if outcome.action == "restored":  # by an earlier restore that was killed
            return outcome
    with intents.workplace(by.scratch, blob.size_bytes) as folder:
        original = folder / "original"
        with effect("restore.fetch"):
            digest = workspace.bucket.download(blob.key, original, etag=blob.etag)
        intent = _announce(workspace, blob, by, lease, original, digest)
        if intent is None:
            return Outcome(blob.video_id, "skipped", "purged, replaced or restored meanwhile")
        in_place.put(workspace, intent, original, lease)
    return intents.settle(workspace, intent, scratch=by.scratch, lease=lease, grace=by.grace)


def _announce(
    workspace: Workspace, blob: Restorable, by: Restorer, lease: Lease, original: Path, digest: str
) -> Intent | None:
    md5 = intents.md5(original)
    with transaction(workspace.engine, "restore.announce") as session:
        # guard restore.in_place_permission: a restore without its lease puts bytes over another run's
        require_permission(session, lease, despite_freeze=True)
        known = restorable.lock_exchange(session, blob)
        if known is None:
            return None
        # guard restore.in_place_whole: a corrupt copy is put back in place of the original bytes
        if known.original["sha256"] != digest:
            raise IntegrityDoubt(
                f"{blob.key}: stored sha256 {digest}, recorded {known.original['sha256']}: not restored"
            )
        new = known.original | {"generation": blob.generation + 1, "key": known.key, "is_ours": False, "etag": md5}
        aside_key = blob_key(workspace.bucket.prefix, blob.user_id, blob.video_id, blob.generation, "mp4")
        aside = known.present | {"generation": blob.generation, "key": aside_key}
        operation = {
            "kind": "restore",
            "video_id": blob.video_id,
            "old_blob_id": blob.blob_id,
            "generation": blob.generation,
            "run_id": by.run_id,
            "lease_token": lease.token,
            "detail": {"author": by.author, "hold_days": by.hold_days},
        }
        return announce(session, new, operation, aside)
