"""Restore: take back a retirement or a swap, until the purge has passed the point of no return.

A restored video is held for a while, or the next run would retire it again by the same rule. Restoring works while
changes are frozen: it only brings back what people lost.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.errors import NotFound
from reelkeeper.model import BlobState, Grace, Outcome, Recorded, VideoState
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.operations.videos.hold import place
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import changed, now, reading, transaction
from reelkeeper.store.tables import blobs, deployment, operations, videos
from reelkeeper.store.videos.conditions import retired


class Restorable(NamedTuple):
    """A video and the retired blob that it can go back to. `recipe` is set where that takes back a swap."""

    video_id: str
    user_id: str
    state: str
    generation: int
    blob_id: int | None
    wanted_blob_id: int
    key: str
    recipe: str | None
    size_bytes: int
    etag: str | None
    is_ours: bool
    stored_at: datetime | None

    @property
    def recorded(self) -> Recorded:
        """Return what the catalogue records of the blob's object."""
        return Recorded(self.size_bytes, self.etag, self.is_ours, self.stored_at)


def find_restorable(
    depot: Depot, *, run_id: str | None = None, video_id: str | None = None, user_id: str | None = None
) -> list[Restorable]:
    """Find what can be brought back of one run, one video or one user.

    A run brings back what it retired and takes back its swaps; so does a single video. A user gets back what was
    retired or lost; their swaps stay. Raises NotFound when there is nothing.
    """
    retired = videos.c.state.in_([VideoState.RETIRED, VideoState.LOST])
    swapped = sa.and_(videos.c.state == VideoState.LIVE, operations.c.id.is_not(None))
    wanted = {
        "run": sa.or_(sa.and_(retired, videos.c.run_id == run_id), sa.and_(swapped, operations.c.run_id == run_id)),
        "video": sa.and_(videos.c.id == video_id, sa.or_(retired, swapped)),
        "user": sa.and_(videos.c.user_id == user_id, retired),
    }["run" if run_id else "video" if video_id else "user"]
    with reading(depot.engine) as session:
        found = [Restorable(*row) for row in session.execute(_candidates().where(wanted))]
    latest = {one.video_id: one for one in found}  # ordered by generation: the last one of a video is its latest
    if not latest:
        subject = f"run {run_id}" if run_id else f"video {video_id}" if video_id else f"user {user_id}"
        raise NotFound(f"nothing to restore of {subject}: nothing of it is retired, or its bytes are already purged")
    return list(latest.values())


def _candidates() -> sa.Select[tuple[object, ...]]:
    swap_to_take_back = sa.and_(
        operations.c.kind == "swap",
        operations.c.state == "done",
        operations.c.new_blob_id == videos.c.blob_id,
        operations.c.old_blob_id == blobs.c.id,
    )
    present = blobs.alias("present")
    return (
        sa.select(
            videos.c.id,
            videos.c.user_id,
            videos.c.state,
            videos.c.generation,
            videos.c.blob_id,
            blobs.c.id,
            blobs.c.key,
            sa.case((videos.c.state == VideoState.LIVE, present.c.recipe)),
            *(blobs.c[name] for name in Recorded._fields),
        )
        .select_from(
            videos.join(blobs, blobs.c.video_id == videos.c.id)
            .outerjoin(operations, swap_to_take_back)
            .outerjoin(present, present.c.id == videos.c.blob_id)
        )
        .where(
            blobs.c.state == BlobState.RETIRED,
            # An abandoned upload or swap was never shown to anybody.
            sa.or_(blobs.c.id == videos.c.blob_id, blobs.c.generation < present.c.generation),
        )
        .order_by(videos.c.id, blobs.c.generation)
    )


def restore(
    depot: Depot, batch: Sequence[Restorable], *, run_id: str, author: str, grace: Grace, hold_days: int
) -> list[Outcome]:
    """Bring back those of `batch` whose bytes are stored as recorded, in one transaction."""
    stored = depot.bucket.stored([one.key for one in batch])
    outcomes: list[Outcome] = []
    with transaction(depot.engine, "restore") as session:
        session.execute(sa.select(deployment.c.id).with_for_update())
        with quotas.counted(session, [one.video_id for one in batch]):
            for one in batch:
                found = stored[one.key]
                if found is None or not one.recorded.matches(found):
                    there = "nothing is" if found is None else f"{found.size_bytes} bytes, ETag {found.etag}, are"
                    why = f"{there} stored at {one.key}; recorded were {one.size_bytes} bytes, ETag {one.etag}"
                    outcomes.append(Outcome(one.video_id, "failed", why, blob_id=one.wanted_blob_id))
                elif _bring_back(session, one, run_id, grace):
                    outcomes.append(
                        Outcome(one.video_id, "restored", f"by {author}", 0, one.size_bytes, one.wanted_blob_id)
                    )
                else:
                    why = "meanwhile it was purged, replaced or restored"
                    outcomes.append(Outcome(one.video_id, "skipped", why, blob_id=one.wanted_blob_id))
        restored = {outcome.video_id for outcome in outcomes if outcome.action == "restored"}
        append(
            session,
            [
                Event(
                    "restore", run_id, one.video_id, one.wanted_blob_id, one.user_id, {"by": author, "was": one.state}
                )
                for one in batch
                if one.video_id in restored
            ],
        )
        if hold_days:
            for video_id in sorted(restored):
                until = now(session) + timedelta(days=hold_days)
                place(session, scope="video", subject=video_id, reason="restored", author=author, expires_at=until)
    return outcomes


def _bring_back(session: Session, one: Restorable, run_id: str, grace: Grace) -> bool:
    at = now(session)
    revived = changed(
        session,
        sa.update(blobs)
        .where(blobs.c.id == one.wanted_blob_id, blobs.c.state == BlobState.RETIRED)
        .values(state=BlobState.LIVE, retired_at=None, purge_after=None, retire_reason=None, run_id=run_id),
    )
    if not revived:
        return False
    same_blob = one.blob_id == one.wanted_blob_id
    values: dict[str, object] = {
        "state": VideoState.LIVE,
        "blob_id": one.wanted_blob_id,
        "generation": one.generation + (0 if same_blob else 1),
        "retired_at": None,
        "retire_reason": None,
        "run_id": run_id,
    }
    if one.recipe:
        values |= {"refused_recipe": one.recipe, "refused_reason": "its swap was taken back", "refused_at": at}
    moved = changed(
        session,
        sa.update(videos)
        .where(
            videos.c.id == one.video_id,
            videos.c.state == one.state,
            videos.c.generation == one.generation,
            videos.c.blob_id == one.blob_id,
        )
        .values(**values),
    )
    if not moved:
        session.execute(
            sa.update(blobs)
            .where(blobs.c.id == one.wanted_blob_id)
            .values(**retired(at, grace, "its video was replaced or restored meanwhile"))
        )
        return False
    if not same_blob:
        session.execute(
            sa.update(blobs)
            .where(blobs.c.id == one.blob_id, blobs.c.state == BlobState.LIVE)
            .values(run_id=run_id, **retired(at, grace, f"its swap was taken back in favour of {one.key}"))
        )
    return True
