"""Restore: take back a retirement or a swap, until the purge has passed the point of no return.

A restored video is held for a while, or the next run would retire it again by the same rule. Restoring works while
changes are frozen: it only brings back what people lost.
"""

from collections.abc import Sequence
from datetime import timedelta

from reelkeeper.errors import NotFound
from reelkeeper.model import Grace, Outcome
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos.hold import place
from reelkeeper.store.billing import quotas
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.lifecycle import restorable
from reelkeeper.store.lifecycle.restorable import Restorable
from reelkeeper.store.videos.holds import HoldTerms


def find_restorable(
    workspace: Workspace, *, run_id: str | None = None, video_id: str | None = None, user_id: str | None = None
) -> list[Restorable]:
    """Find what can be brought back of one run, one video or one user.

    A run brings back what it retired and takes back its swaps; so does a single video. A user gets back what was
    retired or lost, and not what they have deleted themselves; their swaps stay. Raises NotFound when there is nothing.
    """
    with reading(workspace.engine) as session:
        found = restorable.find(session, run_id=run_id, video_id=video_id, user_id=user_id)
    latest = {blob.video_id: blob for blob in found}  # ordered by generation: the last one of a video is its latest
    if not latest:
        subject = f"run {run_id}" if run_id else f"video {video_id}" if video_id else f"user {user_id}"
        raise NotFound(f"nothing to restore of {subject}: nothing of it is retired, or its bytes are already purged")
    return list(latest.values())


def restore(
    workspace: Workspace, batch: Sequence[Restorable], *, run_id: str, author: str, grace: Grace, hold_days: int
) -> list[Outcome]:
    """Bring back those of `batch` whose bytes are stored as recorded, in one transaction."""
    stored = workspace.bucket.stored([blob.key for blob in batch])
    outcomes: list[Outcome] = []
    with transaction(workspace.engine, "restore") as session:
        deployment.lock(session)
        with quotas.counted(session, [blob.video_id for blob in batch]):
            for blob in batch:
                found = stored[blob.key]
                # guard restore.as_recorded: a video is restored to bytes that are not there, or are not its own
                # guard restore.stored: a video is restored to bytes that are not there
                if found is None or not blob.recorded.matches(found):
                    there = "nothing is" if found is None else f"{found.size_bytes} bytes, ETag {found.etag}, are"
                    why = f"{there} stored at {blob.key}; recorded were {blob.size_bytes} bytes, ETag {blob.etag}"
                    outcomes.append(Outcome(blob.video_id, "failed", why, blob_id=blob.wanted_blob_id))
                elif restorable.bring_back(session, blob, run_id, grace):
                    outcomes.append(
                        Outcome(blob.video_id, "restored", f"by {author}", 0, blob.size_bytes, blob.wanted_blob_id)
                    )
                else:
                    why = "meanwhile it was purged, replaced or restored"
                    outcomes.append(Outcome(blob.video_id, "skipped", why, blob_id=blob.wanted_blob_id))
        restored = {outcome.video_id for outcome in outcomes if outcome.action == "restored"}
        record(
            session,
            [
                Event(
                    "restore",
                    run_id,
                    blob.video_id,
                    blob.wanted_blob_id,
                    blob.user_id,
                    {"by": author, "was": blob.state},
                )
                for blob in batch
                if blob.video_id in restored
            ],
        )
        # guard restore.held_after: the next run retires a restored video by the same rule
        if hold_days:
            for video_id in sorted(restored):
                until = now(session) + timedelta(days=hold_days)
                place(session, HoldTerms("video", video_id, "restored", author, until))
    return outcomes
