"""Bring the catalogue in line with the bucket: the acting half, after `survey` has looked and the guard has judged.

    lose      rows whose objects are missing are marked, never deleted
    mend      objects that the service wrote over, or that came back, are noted as they are now
    finish    close the scan

`orphans` has the steps for objects that no row explains. No byte is changed in either; each step can be repeated.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.adapters.keys import parse_key
from reelkeeper.model import BlobState, StoredObject, VideoState
from reelkeeper.operations import cache
from reelkeeper.operations.depot import Depot
from reelkeeper.operations.freeze import require_permission
from reelkeeper.operations.survey import Survey
from reelkeeper.store import quotas
from reelkeeper.store.audit import Event, append
from reelkeeper.store.engine import changed, now, transaction
from reelkeeper.store.leases import Grant
from reelkeeper.store.retirement import retired
from reelkeeper.store.tables import blobs, orphans, scans, videos

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
            with quotas.counted(session, videos.c.blob_id.in_(missing)):
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


def mend(depot: Depot, survey: Survey, *, grant: Grant, run_id: str, grace_days: int) -> list[str]:
    """Note what stands there now; returns the keys that nobody should have been able to change.

    A key that the service chose may be written over: the catalogue takes the new size and ETag, and forgets what it
    knew of the old bytes. A key that Reelkeeper chose is written once: another content there is a doubt, left as it is.
    An object that came back after its purge is retired again; the object of a lost video makes it live again.
    """
    doubtful: list[str] = []
    events: list[Event] = []
    with transaction(depot.engine, "sync.mend") as session:
        require_permission(session, grant)
        for start in range(0, len(survey.changed), _BATCH):
            batch = survey.changed[start : start + _BATCH]
            with quotas.counted(session, videos.c.blob_id.in_([blob_id for blob_id, _ in batch])):
                for blob_id, stored in batch:
                    parsed = parse_key(depot.bucket.prefix, stored.key)
                    if parsed is None or parsed.generation is not None:
                        doubtful.append(stored.key)
                        detail = {"key": stored.key, "bytes": stored.size_bytes}
                        events.append(Event("doubt", run_id, None, blob_id, None, detail))
                    else:
                        _overwrite(session, blob_id, stored)
                        cache.drop(session, [parsed.video_id])  # it shows something else now
                        whose = (parsed.video_id, blob_id, parsed.user_id)
                        events.append(Event("overwritten", run_id, *whose, {"key": stored.key}))
        session.execute(
            sa.update(blobs)
            .where(blobs.c.id.in_(survey.reappeared), blobs.c.state == BlobState.GONE)
            .values(run_id=run_id, **retired(now(session), grace_days, "its object was there after its purge"))
        )
        events += [Event("reappeared", run_id, None, blob_id) for blob_id in survey.reappeared]
        with quotas.counted(session, videos.c.blob_id.in_(survey.found)):
            events += _revive(session, survey.found, run_id, grace_days)
        append(session, events)
    return doubtful


def _overwrite(session: Session, blob_id: int, stored: StoredObject) -> None:
    """Take the size and ETag that are stored now, and forget what was known of the bytes before."""
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id == blob_id)
        .values(
            size_bytes=stored.size_bytes,
            etag=stored.etag,
            sha256=None,
            codec=None,
            duration_seconds=None,
            frames=None,
            stored_at=stored.last_modified,
        )
    )
    session.execute(
        sa.update(videos)
        .where(videos.c.blob_id == blob_id)
        .values(generation=videos.c.generation + 1, refused_recipe=None, refused_reason=None, refused_at=None)
    )


def _revive(session: Session, blob_ids: Sequence[int], run_id: str, grace_days: int) -> list[Event]:
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
    session.execute(
        sa.update(blobs).where(lost).values(run_id=run_id, **retired(now(session), grace_days, "found again"))
    )
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
