"""Bring the catalogue in line with the bucket: the acting half, after `survey` has looked and the guard has judged.

    lose      rows whose objects are missing are marked, never deleted
    mend      objects that the service has overwritten, or that came back, are recorded as they are now
    finish    close the scan

`orphans` has the steps for objects that no row explains. No byte is changed in either; each step can be repeated.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.operations.sync.survey import Survey
from reelkeeper.operations.videos.overwrites import take_uploads
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import changed, now, transaction
from reelkeeper.store.core.leases import Grant
from reelkeeper.store.tables import blobs, orphans, scans, videos
from reelkeeper.store.videos import cache, conditions
from reelkeeper.store.videos.conditions import retired

_BATCH = 500


def lose(depot: Depot, survey: Survey, *, grant: Grant, run_id: str) -> int:
    """Mark the missing blobs, and the videos that stand on them, as lost; returns how many videos."""
    lost_videos = 0
    for start in range(0, len(survey.missing), _BATCH):
        with transaction(depot.engine, "sync.lose") as session:
            require_permission(session, grant)
            missing = survey.missing[start : start + _BATCH]
            lost = session.execute(
                sa.update(blobs)
                .where(
                    blobs.c.id.in_(missing),
                    blobs.c.state.in_([BlobState.LIVE, BlobState.RETIRED]),
                )
                .values(state=BlobState.LOST, run_id=run_id)
                .returning(blobs.c.id, blobs.c.video_id, blobs.c.key)
            ).all()
            with quotas.counted(session, standing_on=missing):
                lost_videos += changed(
                    session,
                    sa.update(videos)
                    .where(
                        videos.c.blob_id.in_([row.id for row in lost]),
                        videos.c.state.in_([VideoState.LIVE, VideoState.RETIRED]),
                    )
                    .values(state=VideoState.LOST, run_id=run_id),
                )
            cache.drop(session, [row.video_id for row in lost if row.video_id is not None])
            append(session, [Event("lose", run_id, row.video_id, row.id, None, {"key": row.key}) for row in lost])
    return lost_videos


def mend(depot: Depot, survey: Survey, *, grant: Grant, run_id: str, grace: Grace) -> list[str]:
    """Record what stands there now; return the keys that are in doubt.

    Other bytes at a key of the service's are an upload: they become their video's. Where a purge has claimed the blob
    meanwhile they are in doubt until its claim ends. A key of ours is written once: other bytes there are a doubt, left
    as they are. An object that is there after its purge is retired again; that of a lost video makes it live again.
    """
    for start in range(0, len(survey.overwritten), _BATCH):
        with transaction(depot.engine, "sync.take_uploads") as session:
            require_permission(session, grant)
            take_uploads(session, survey.overwritten[start : start + _BATCH], run_id=run_id, grace=grace)
    events = [
        Event("doubt", run_id, None, blob_id, None, {"key": stored.key, "bytes": stored.size_bytes})
        for blob_id, stored in survey.doubtful
    ]
    with transaction(depot.engine, "sync.mend") as session:
        require_permission(session, grant)
        session.execute(
            sa.update(blobs)
            .where(
                blobs.c.id.in_(survey.reappeared),
                blobs.c.state == BlobState.GONE,
                ~conditions.has_open_row(blobs.c.key, blobs.c.id),  # the service may have stored another meanwhile
            )
            .values(run_id=run_id, **retired(now(session), grace, "its object was there after its purge"))
        )
        events += [Event("reappeared", run_id, None, blob_id) for blob_id in survey.reappeared]
        with quotas.counted(session, standing_on=survey.found):
            events += _revive(session, survey.found, run_id, grace)
        append(session, events)
    return [stored.key for _, stored in survey.doubtful] + survey.claimed


def _revive(session: Session, blob_ids: Sequence[int], run_id: str, grace: Grace) -> list[Event]:
    """Take back rows in `lost` whose object is there: as their video's present bytes, or as an old generation."""
    lost = sa.and_(blobs.c.id.in_(blob_ids), blobs.c.state == BlobState.LOST)
    stands = sa.exists().where(videos.c.blob_id == blobs.c.id, videos.c.state == VideoState.LOST)
    alive = list(
        session.execute(
            sa.update(blobs).where(lost, stands).values(state=BlobState.LIVE, run_id=run_id).returning(blobs.c.id)
        ).scalars()
    )
    session.execute(
        sa.update(videos)
        .where(videos.c.blob_id.in_(alive), videos.c.state == VideoState.LOST)
        .values(state=VideoState.LIVE, run_id=run_id)
    )
    session.execute(sa.update(blobs).where(lost).values(run_id=run_id, **retired(now(session), grace, "found again")))
    return [Event("found", run_id, None, blob_id) for blob_id in blob_ids]


def finish(depot: Depot, survey: Survey, outcome: str) -> tuple[int, list[str]]:
    """Close the scan, and drop notes of objects that are no longer there; returns what stays noted, and five keys."""
    with transaction(depot.engine, "sync.finish") as session:
        session.execute(sa.delete(orphans).where(orphans.c.last_seen_at < survey.started_at))
        session.execute(
            sa.update(scans)
            .where(scans.c.id == survey.scan_id)
            .values(
                finished_at=now(session),
                objects=survey.listed.objects,
                size_bytes=survey.listed.size_bytes,
                outcome=outcome,
            )
        )
        count: int = session.execute(sa.select(sa.func.count()).select_from(orphans)).scalar_one()
        return count, list(session.execute(sa.select(orphans.c.key).order_by(orphans.c.key).limit(5)).scalars())
