"""Claim blobs for a purge by one UPDATE that checks everything again, count the claims, and settle each once."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session as AnySession
from sqlmodel import Session

from reelkeeper.model import BlobState, Claimed, Counts, Grace, Recorded, VideoState
from reelkeeper.store.core.engine import changed, checked, now, one_of
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, plans, verdicts, videos
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.conditions import Condition, after_grace


class Doomed(NamedTuple):
    """A blob that this run has claimed, with the objects that must still be stored as recorded before its delete."""

    blob_id: int
    video_id: str | None
    user_id: str | None
    key: str
    recorded: Recorded
    successor_key: str | None  # of the live video's present blob, if that is another
    successor: Recorded


class TimedOut(NamedTuple):
    """A blob whose claim has timed out, and the record of its object."""

    blob_id: int
    key: str
    recorded: Recorded


def claim(
    session: Session,
    plan_id: str,
    blob_ids: Sequence[int],
    lease: Lease,
    *,
    run_id: str,
    grace: Grace,
    service_keys: bool,
) -> None:
    """Claim those of `blob_ids` that the plan purges, and that may still be purged, under `lease`."""
    at = now(session)
    planned = sa.exists().where(
        verdicts.c.plan_id == plan_id, verdicts.c.blob_id == blobs.c.id, verdicts.c.action == "purge"
    )
    may_go = sa.or_(
        # guard purge.planned: a blob that the plan does not name is purged
        # guard purge.asked_again: a video that was viewed, held or restored since the plan is purged
        sa.and_(planned, conditions.purgeable(at, grace, service_keys=service_keys)),
        claimed_by(lease),  # by an earlier attempt of this run
    )
    session.execute(
        sa.update(blobs)
        .where(one_of(session, blobs.c.id, blob_ids), may_go)
        .values(state=BlobState.DELETING, run_id=run_id, claimed_at=at, claim_token=lease.token)
    )


def claimed_by(lease: Lease) -> Condition:
    """Build the condition that the blob is claimed under this lease."""
    # guard purge.own_claim: a run deletes and settles another run's claims
    return sa.and_(checked(blobs.c.state == BlobState.DELETING), blobs.c.claim_token == lease.token)


def claimed(session: Session, blob_ids: Sequence[int], lease: Lease) -> list[Doomed]:
    """List those of `blob_ids` that are claimed under this lease, by key."""
    successor = blobs.alias("successor")
    recorded = Recorded._fields
    is_another = sa.and_(
        successor.c.id == videos.c.blob_id, successor.c.id != blobs.c.id, videos.c.state == VideoState.LIVE
    )
    rows = session.execute(
        sa.select(
            *(blobs.c.id, blobs.c.video_id, videos.c.user_id, blobs.c.key, successor.c.key),
            *(blobs.c[name] for name in recorded),
            *(successor.c[name] for name in recorded),
        )
        .select_from(blobs.outerjoin(videos, videos.c.id == blobs.c.video_id).outerjoin(successor, is_another))
        .where(one_of(session, blobs.c.id, blob_ids), claimed_by(lease))
        .order_by(blobs.c.key)
    )
    return [Doomed(row[0], row[1], row[2], row[3], Recorded(*row[5:9]), row[4], Recorded(*row[9:13])) for row in rows]


def count_claimed(session: Session, blob_ids: Sequence[int], lease: Lease) -> int:
    """Count those of `blob_ids` that are still claimed under this lease."""
    count = sa.select(sa.func.count()).where(one_of(session, blobs.c.id, blob_ids), claimed_by(lease))
    return int(session.execute(count).scalar_one())


def timed_out(session: Session, video_ids: Sequence[str] | None, limit: int) -> list[TimedOut]:
    """List blobs whose claims have timed out, of all videos or of some."""
    wanted = sa.true() if video_ids is None else blobs.c.video_id.in_(video_ids)
    columns = (blobs.c.id, blobs.c.key, *(blobs.c[name] for name in Recorded._fields))
    over = sa.and_(conditions.claim_timed_out(now(session)), wanted)
    rows = session.execute(sa.select(*columns).where(over).limit(limit)).all()
    return [TimedOut(row.id, row.key, Recorded(*row[2:])) for row in rows]


def open_claims(session: AnySession) -> list[Claimed]:
    """Sum the claims that have not timed out, by run, those that end first before the others."""
    until = sa.func.max(blobs.c.claimed_at)
    size = sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0)
    rows = session.execute(
        sa.select(sa.func.coalesce(blobs.c.run_id, "unknown"), sa.func.count(), size, until)
        .where(blobs.c.state == BlobState.DELETING, sa.not_(conditions.claim_timed_out(now(session))))
        .group_by(blobs.c.run_id)
        .order_by(until)
    )
    return [Claimed(row[0], int(row[1]), int(row[2]), row[3] + conditions.CLAIM_TIMEOUT) for row in rows]


def counted_until_purged(session: Session, blob_ids: Sequence[int]) -> list[str]:
    """List the videos on these blobs that their users deleted, and that count towards a quota until they are purged."""
    is_retired = checked(videos.c.state == VideoState.RETIRED)
    counted = sa.and_(is_retired, videos.c.retire_reason == conditions.DELETED_COUNTED)
    return list(
        session.execute(sa.select(videos.c.id).where(conditions.stands_on(session, blob_ids), counted)).scalars()
    )


def mark_gone(session: Session, blob_ids: Sequence[int], still: Condition, run_id: str) -> list[tuple[int, str | None]]:
    """Record that the bytes of those blobs that are `still` claimed are gone; return them, with their videos."""
    settled = session.execute(
        sa.update(blobs)
        # guard purge.gone_once: a blob that was restored meanwhile is marked as gone
        .where(one_of(session, blobs.c.id, blob_ids), still)
        .values(state=BlobState.GONE, claimed_at=None, claim_token=None)
        .returning(blobs.c.id, blobs.c.video_id)
    ).all()
    whose = [row.video_id for row in settled if row.video_id is not None]
    on_them = sa.and_(
        one_of(session, videos.c.id, whose), one_of(session, videos.c.blob_id, [row.id for row in settled])
    )
    session.execute(
        sa.update(videos)
        # guard purge.gone_video: a live video is marked as gone
        .where(on_them, checked(videos.c.state == VideoState.RETIRED))
        .values(state=VideoState.GONE, run_id=run_id)
    )
    return [(row.id, row.video_id) for row in settled]


def record_settled(session: Session, blob_ids: Sequence[int]) -> None:
    """Record in the plans of runs that were killed, or got no answer, that these bytes are gone: they deleted them."""
    of_these = one_of(session, blobs.c.id, blob_ids)
    pairs = sa.select(plans.c.id, blobs.c.id).join(blobs, blobs.c.run_id == plans.c.run_id).where(of_these)
    session.execute(
        sa.update(verdicts)
        .where(
            sa.tuple_(verdicts.c.plan_id, verdicts.c.blob_id).in_(pairs),
            sa.or_(verdicts.c.outcome.is_(None), verdicts.c.outcome == "failed"),
        )
        .values(outcome="purged", outcome_reason="its run was killed, or not answered, after the delete", after_bytes=0)
    )


def take_back(session: Session, blob_ids: Sequence[int], still: Condition, grace: Grace | None = None) -> int:
    """Retire again those blobs that are `still` claimed, with a new grace if one is given; return how many."""
    if not blob_ids:
        return 0
    anew = {} if grace is None else {"purge_after": after_grace(now(session), grace)}
    return changed(
        session,
        sa.update(blobs)
        # guard purge.taken_back_once: a purged blob, or another run's, is retired again
        .where(one_of(session, blobs.c.id, blob_ids), still)
        .values(state=BlobState.RETIRED, claimed_at=None, claim_token=None, **anew),
    )


def due(session: Session) -> Counts:
    """Count the retired blobs whose grace is over, and their bytes."""
    size = sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0)
    over = sa.and_(blobs.c.state == BlobState.RETIRED, blobs.c.purge_after <= now(session))
    return Counts(*map(int, session.execute(sa.select(sa.func.count(), size).where(over)).one()))


def renew_graces(session: Session, grace: Grace) -> int:
    """Start the grace of all retired bytes anew, also of those that a run had claimed; return of how many.

    One that ends later, as it began under a longer grace, stays.
    """
    waiting, anew = blobs.c.state.in_([BlobState.RETIRED, BlobState.DELETING]), after_grace(now(session), grace)
    # guard epochs.longer_grace: an adoption brings forward the day that users were told
    until = sa.case((blobs.c.purge_after > anew, blobs.c.purge_after), else_=anew)
    return changed(session, sa.update(blobs).where(waiting).values(purge_after=until))
