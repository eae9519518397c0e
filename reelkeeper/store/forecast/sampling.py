"""Sample usage from the catalogue: bytes stored now, bytes added and purged on a day, and the number of users.

Deployments without a Cloudflare token have no other count, and only this one knows the bytes of each user.
"""

from datetime import UTC, date, datetime, time, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState
from reelkeeper.model.money import Metric, StorageClass, UsageSource, Used, each_day
from reelkeeper.store.billing.usage import KEY, record
from reelkeeper.store.core.engine import insert_into
from reelkeeper.store.tables import audit_events, blobs, usage_days, users, videos
from reelkeeper.store.videos.stock import BILLED, stored_bytes

_ONE_DAY = timedelta(days=1)


def note_stored(session: Session, day: date) -> None:
    """Record the bytes that each user and the account store now, as the peak of `day` if they exceed it.

    The account's bytes include objects without a row of `blobs`, which belong to no user.
    """
    _note_each_user(session, day)
    known = int(session.execute(sa.select(sa.func.count()).select_from(users)).scalar_one())
    record(
        session,
        [
            Used(day, Metric.STORED_BYTES, stored_bytes(session), storage_class=StorageClass.STANDARD),
            Used(day, Metric.USERS, known),
        ],
    )


def _note_each_user(session: Session, day: date) -> None:
    stored = (
        sa.select(
            sa.literal(day, sa.Date),
            sa.literal(Metric.STORED_BYTES.value),
            sa.literal(UsageSource.STORE.value),
            sa.literal(""),
            sa.literal(StorageClass.STANDARD.value),
            videos.c.user_id,
            sa.literal(""),
            sa.func.sum(blobs.c.size_bytes),
            sa.false(),
        )
        .select_from(blobs.join(videos, videos.c.id == blobs.c.video_id))
        .where(blobs.c.state.in_(BILLED))
        .group_by(videos.c.user_id)
        .order_by(videos.c.user_id)
    )
    statement = insert_into(session, usage_days).from_select([*KEY, "quantity", "sampled"], stored)
    new, old = statement.excluded, usage_days.c
    larger = sa.case((new.quantity > old.quantity, new.quantity), else_=old.quantity)
    session.execute(statement.on_conflict_do_update(index_elements=KEY, set_={"quantity": larger}))


def note_moved(session: Session, first: date, last: date) -> None:
    """Record the bytes added and purged on each day from `first` to `last`, zeros included."""
    start, end = (datetime.combine(day, time(), UTC) for day in (first, last + _ONE_DAY))
    came, went = blobs.c.stored_at, audit_events.c.at
    queries = {
        Metric.UPLOADED_BYTES: sa.select(_day_of(came), sa.func.sum(blobs.c.size_bytes))
        .where(came >= start, came < end, blobs.c.state != BlobState.PENDING)
        .group_by(_day_of(came)),
        Metric.DELETED_BYTES: sa.select(_day_of(went), sa.func.sum(blobs.c.size_bytes))
        .join(blobs, blobs.c.id == audit_events.c.blob_id)
        .where(audit_events.c.event == "purge", went >= start, went < end)
        .group_by(_day_of(went)),
    }
    for metric, query in queries.items():
        moved = {row[0]: int(row[1]) for row in session.execute(query)}
        record(session, [Used(day, metric, moved.get(day, 0)) for day in each_day(first, last)])


def _day_of(at: sa.ColumnElement[datetime]) -> sa.Function[date]:
    return sa.func.date(at, type_=sa.Date())
