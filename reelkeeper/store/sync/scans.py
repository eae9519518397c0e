"""Store scans, and read the rows whose objects a complete listing must contain."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Counts, Recorded
from reelkeeper.store.core.engine import Clock, now, one_of
from reelkeeper.store.tables import audit_events, blobs, orphans, scans
from reelkeeper.store.videos import conditions, uploads

BUCKET_EVENTS: Final = "bucket_events"  # the row of `controls` with how far events have been followed
RETAINED_SECONDS: Final = 4 * 86_400.0  # how long the queue keeps messages; after a longer pause, some are lost
SERVICE_DELETE: Final = "service_delete"  # audit event: the service has deleted an object
DAY_SECONDS: Final = 86_400.0
_EXPECTED = (BlobState.LIVE, BlobState.RETIRED)
_SAMPLES_A_SHARD = 100  # keys: shards then differ in size by some ten percent


def begin(session: Session, scan_id: str, run_id: str, started_at: datetime) -> None:
    """Record that a scan has begun."""
    session.execute(sa.insert(scans).values(id=scan_id, run_id=run_id, started_at=started_at))


def finish(session: Session, scan_id: str, started_at: datetime, listed: Counts, outcome: str) -> tuple[int, list[str]]:
    """Close the scan, and drop notes of objects that no longer exist; return the count of notes left, and five keys."""
    session.execute(sa.delete(orphans).where(orphans.c.last_seen_at < started_at))
    session.execute(
        sa.update(scans)
        .where(scans.c.id == scan_id)
        .values(finished_at=now(session), objects=listed.objects, size_bytes=listed.size_bytes, outcome=outcome)
    )
    count: int = session.execute(sa.select(sa.func.count()).select_from(orphans)).scalar_one()
    return count, list(session.execute(sa.select(orphans.c.key).order_by(orphans.c.key).limit(5)).scalars())


def highest_blob_id(session: Session) -> int:
    """Read the highest blob id; 0 where there is none."""
    return session.execute(sa.select(sa.func.max(blobs.c.id))).scalar() or 0


def count_expected(session: Session, started_at: datetime, most: int | None = None) -> int:
    """Count the live and retired blobs that were stored before a scan began, up to `most` of them."""
    counted = sa.select(blobs.c.id).where(*_expected(started_at)).limit(most).subquery()
    return int(session.execute(sa.select(sa.func.count()).select_from(counted)).scalar_one())


def count_deleted(session: Session) -> int:
    """Count the objects that the service deleted in the last 24 hours, as recorded."""
    recent = sa.and_(audit_events.c.event == SERVICE_DELETE, audit_events.c.at > Clock(-DAY_SECONDS))
    return int(session.execute(sa.select(sa.func.count()).where(recent)).scalar_one())


def expected_ids(session: Session, started_at: datetime) -> Iterator[Sequence[int]]:
    """Stream the ids of the blobs that `count_expected` counts, in flat memory."""
    rows = session.execute(
        sa.select(blobs.c.id).where(*_expected(started_at)).order_by(blobs.c.id),
        execution_options={"yield_per": 10_000},
    )
    return rows.scalars().partitions()


def expected_keys(session: Session, blob_ids: Sequence[int]) -> dict[int, str]:
    """Find the keys of those of `blob_ids` that are still live or retired."""
    rows = session.execute(
        # guard sync.still_expected: a blob that was purged while the listing ran is marked as lost
        sa.select(blobs.c.id, blobs.c.key).where(blobs.c.id.in_(blob_ids), blobs.c.state.in_(_EXPECTED))
    )
    return {row.id: row.key for row in rows}


def keys(session: Session, blob_ids: Sequence[int]) -> dict[int, str]:
    """Read the keys of these blobs."""
    rows = session.execute(sa.select(blobs.c.id, blobs.c.key).where(one_of(session, blobs.c.id, blob_ids)))
    return {row.id: row.key for row in rows}


def stored_rows(session: Session, keys: Sequence[str], started_at: datetime) -> dict[int, str]:
    """Read the rows at `keys`, stored before `started_at`, whose objects should exist or are lost."""
    states = blobs.c.state.in_((*_EXPECTED, BlobState.LOST))
    _, before = _expected(started_at)
    rows = session.execute(sa.select(blobs.c.id, blobs.c.key).where(blobs.c.key.in_(keys), states, before))
    return {row.id: row.key for row in rows}


def has_finished(session: Session) -> bool:
    """Return whether any complete listing was ever processed."""
    return bool(session.execute(sa.select(sa.exists().where(scans.c.finished_at.is_not(None)))).scalar_one())


def boundaries(session: Session, highest: int, shards: int) -> list[str]:
    """Choose keys that divide the catalogue's keys into `shards` ranges of about equal size, from a sample by id."""
    if shards == 1:
        return []
    stride = max(1, highest // (_SAMPLES_A_SHARD * shards))
    sample = blobs.c.id.in_(range(1, highest + 1, stride)), blobs.c.state.in_(_EXPECTED)
    known = sorted(session.execute(sa.select(blobs.c.key).where(*sample)).scalars(), key=str.encode)
    return [known[len(known) * part // shards] for part in range(1, shards)] if len(known) >= shards else []


def known_objects(session: Session, keys: Sequence[str]) -> dict[str, tuple[int, str, Recorded]]:
    """Read the open row of each key, or else the newest `gone` one: its id, state and object.

    Left out is the row of an upload that may have been completed while this store was not the one at work.
    """
    columns = (blobs.c.key, blobs.c.id, blobs.c.state, blobs.c.size_bytes, blobs.c.etag, blobs.c.is_ours)
    rows = session.execute(
        sa.select(*columns, blobs.c.stored_at)
        # guard sync.in_place_pending: an upload by the service during a swap in place is not noticed
        .where(one_of(session, blobs.c.key, keys), conditions.stands())
        # guard sync.completed_elsewhere: after a restored backup, a video is purged whose upload was open at the backup
        .where(sa.not_(uploads.perhaps_completed(session)))
        .order_by(blobs.c.state != BlobState.GONE, blobs.c.id)  # the last row of a key counts
    ).all()
    return {key: (blob_id, state, Recorded(size, etag, ours, at)) for key, blob_id, state, size, etag, ours, at in rows}


def _expected(started_at: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    # guard sync.stored_before: an object stored while the listing runs is marked as lost
    return blobs.c.state.in_(_EXPECTED), sa.or_(blobs.c.stored_at.is_(None), blobs.c.stored_at < started_at)
