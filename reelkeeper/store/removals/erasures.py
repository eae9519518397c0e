"""Read which users are being erased, which of their bytes are still stored, and which data is only theirs."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState
from reelkeeper.model.jobs import IN_FLIGHT
from reelkeeper.model.money import ReservationState
from reelkeeper.store.core import former_ids
from reelkeeper.store.core.engine import now
from reelkeeper.store.tables import (
    audit_events,
    blobs,
    holds,
    jobs,
    key_owners,
    orphans,
    reservations,
    uploads,
    users,
    videos,
)
from reelkeeper.store.videos.user_data import select_images

_Ends = dict[str, list[datetime | None]]


class Erasing(NamedTuple):
    """A user who is being erased, and the pseudonym that replaces the id in the books."""

    user_id: str
    pseudonym: str
    since: datetime


class LeftObject(NamedTuple):
    """An object that is still stored. `until`: when a legal hold on it ends, where one has an end."""

    video_id: str
    blob_id: int
    key: str
    size_bytes: int
    is_held: bool
    until: datetime | None


def find(session: Session, user_id: str) -> Erasing | None:
    """Find a user who is being erased; None for any other, and for one who was erased."""
    wanted = sa.select(users.c.pseudonym, users.c.erasing_at).where(
        users.c.id == user_id, users.c.erasing_at.is_not(None), users.c.pseudonym != user_id
    )
    row = session.execute(wanted).one_or_none()
    return Erasing(user_id, row.pseudonym, row.erasing_at) if row else None


def begin(session: Session, user_id: str) -> Erasing | None:
    """Record that a user is being erased and gets nothing new from now on; None where there is no such user."""
    is_user = users.c.id == user_id
    values = {"erasing_at": now(session), "pseudonym": f"erased-{uuid4().hex}"}
    session.execute(sa.update(users).where(is_user, users.c.erasing_at.is_(None)).values(values))
    return find(session, user_id)


def unfinished(session: Session) -> list[str]:
    """List the users who are being erased, the longest first."""
    under_way = sa.select(users.c.id).where(users.c.erasing_at.is_not(None), users.c.pseudonym != users.c.id)
    return list(session.execute(under_way.order_by(users.c.erasing_at, users.c.id)).scalars())


def jobs_in_flight(session: Session, user_id: str) -> list[str]:
    """List the unfinished jobs of a user, first those that wait for another job's video."""
    query = sa.select(jobs.c.id).where(jobs.c.user_id == user_id, jobs.c.state.in_(IN_FLIGHT))
    return list(session.execute(query.order_by(jobs.c.leader_id.is_(None), jobs.c.created_at)).scalars())


def open_reservations(session: Session, user_id: str) -> list[str]:
    """List a user's open reservations of bytes."""
    query = sa.select(reservations.c.id).where(
        reservations.c.user_id == user_id, reservations.c.state == ReservationState.OPEN
    )
    return list(session.execute(query.order_by(reservations.c.id)).scalars())


def urls_until(session: Session, user_id: str, skew: timedelta) -> datetime | None:
    """Return until when the bucket may accept a presigned URL of the user's uploads; None: it accepts none.

    `skew`: by how much the clock that a URL was signed with may be ahead of the bucket's.
    """
    reserved = sa.select(reservations.c.id).where(reservations.c.user_id == user_id)
    last: datetime | None = session.execute(
        sa.select(sa.func.max(uploads.c.url_until)).where(uploads.c.reservation_id.in_(reserved))
    ).scalar()
    # guard erase.urls_by_its_clock: an erasure ends while the bucket still accepts an upload
    return last + skew if last is not None and last + skew > now(session) else None


def stored_videos(session: Session, user_id: str, after: str, limit: int) -> list[str]:
    """List the next videos of a user after the id `after` that have, or may have, a stored object."""
    stored = sa.exists().where(blobs.c.video_id == videos.c.id, blobs.c.state != BlobState.GONE)
    query = sa.select(videos.c.id).where(videos.c.user_id == user_id, videos.c.id > after, stored)
    return list(session.execute(query.order_by(videos.c.id).limit(limit)).scalars())


def count_stored(session: Session, user_id: str) -> tuple[int, int, int]:
    """Count a user's videos that have stored objects, these objects, and their bytes."""
    stored = sa.and_(blobs.c.state != BlobState.GONE, videos.c.user_id == user_id)
    counts = (
        sa.func.count(sa.distinct(videos.c.id)),
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0),
    )
    row = session.execute(
        sa.select(*counts).join_from(blobs, videos, blobs.c.video_id == videos.c.id).where(stored)
    ).one()
    return int(row[0]), int(row[1]), int(row[2])


def all_videos(session: Session, user_id: str) -> frozenset[str]:
    """Read the ids of all videos that a user has or had, and of those that uploads would have created."""
    reserved = sa.select(reservations.c.id).where(reservations.c.user_id == user_id)
    query = sa.union(
        sa.select(videos.c.id).where(videos.c.user_id == user_id),
        sa.select(uploads.c.video_id).where(uploads.c.reservation_id.in_(reserved)),
    )
    return frozenset(session.execute(query).scalars())


def left(session: Session, user_id: str, limit: int) -> list[LeftObject]:
    """List the objects of a user's videos that are still stored, and which of them a legal hold keeps."""
    by_user = _ends(session, "user", [user_id])
    own_videos = sa.select(videos.c.id).where(videos.c.user_id == user_id)
    by_video = _ends(session, "video", own_videos)
    rows = session.execute(
        sa.select(videos.c.id, blobs.c.id, blobs.c.key, blobs.c.size_bytes)
        .select_from(videos.join(blobs, blobs.c.video_id == videos.c.id))
        .where(videos.c.user_id == user_id, blobs.c.state != BlobState.GONE)
        .order_by(videos.c.id, blobs.c.id)
        .limit(limit)
    )
    objects = []
    for video_id, blob_id, key, size_bytes in rows:
        ends = by_user.get(user_id, []) + by_video.get(video_id, [])
        objects.append(LeftObject(video_id, blob_id, key, size_bytes, bool(ends), _last(ends)))
    return objects


def legal_hold(session: Session, user_id: str) -> tuple[bool, datetime | None]:
    """Return whether the user has a legal hold, and until when, where all such holds have an end."""
    ends = _ends(session, "user", [user_id]).get(user_id, [])
    return bool(ends), _last(ends)


def _ends(session: Session, scope: str, subjects: Any) -> _Ends:  # noqa: ANN401  a query, or values
    """Return the ends of the legal holds in force on these subjects, by subject."""
    lasting = sa.or_(holds.c.expires_at.is_(None), holds.c.expires_at > now(session))
    in_force = sa.and_(holds.c.scope == scope, holds.c.is_legal, holds.c.released_at.is_(None), lasting)
    chosen = sa.select(holds.c.subject, holds.c.expires_at).where(in_force, holds.c.subject.in_(subjects))
    ends: _Ends = {}
    for subject, end in session.execute(chosen):
        ends.setdefault(subject, []).append(end)
    return ends


def _last(ends: list[datetime | None]) -> datetime | None:
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


def loose_keys(session: Session, user_id: str) -> list[str]:
    """List a user's keys that may belong to no video: those of uploads, of orphans, and from imported keys."""
    reserved = sa.select(reservations.c.id).where(reservations.c.user_id == user_id)
    put = sa.select(uploads.c.blob_id).where(uploads.c.reservation_id.in_(reserved))
    found = sa.union(
        sa.select(blobs.c.key).where(blobs.c.id.in_(put)),
        sa.select(orphans.c.key).where(orphans.c.user_id == user_id),
        sa.select(key_owners.c.key).where(key_owners.c.user_id == user_id),
    )
    return list(session.execute(found).scalars())


def with_videos(session: Session, keys: Sequence[str]) -> set[str]:
    """Return those of `keys` that belong to a video's row."""
    standing = sa.and_(blobs.c.video_id.is_not(None), blobs.c.state != BlobState.GONE)
    return set(session.execute(sa.select(blobs.c.key).where(blobs.c.key.in_(keys), standing)).scalars())


def own_images(session: Session, user_id: str) -> list[str]:
    """List the SHA-256 of the images that jobs of this user, and of nobody else, start or started from."""
    own = select_images(lambda column: column == user_id).subquery()
    others = select_images(lambda column: column != user_id)
    # guard erase.others_image: an image is deleted that another user's job starts from
    wanted = sa.select(own).where(own.c.sha256.not_in(others))
    return list(session.execute(wanted.order_by(own.c.sha256)).scalars())


class Personal(NamedTuple):
    """The detail of an audit event with a personal part, and whether it is the user's, or another's.

    It is the user's if it names the user, one of their videos, or the bytes of one; another's if it names another user
    or a video of one.
    """

    place: int
    detail: dict[str, Any]
    is_theirs: bool
    is_anothers: bool


def personal_events(session: Session, user_id: str, after: int, limit: int) -> list[Personal]:
    """Read the next audit events after number `after` with a personal part."""
    own_videos = sa.select(videos.c.id).where(videos.c.user_id == user_id)
    bytes_ = sa.select(blobs.c.id).where(blobs.c.video_id.in_(own_videos))
    reserved = sa.select(reservations.c.id).where(reservations.c.user_id == user_id)
    put = sa.select(uploads.c.blob_id).where(uploads.c.reservation_id.in_(reserved))
    is_theirs = sa.or_(
        audit_events.c.user_id == user_id,
        audit_events.c.user_id.in_(former_ids.select_of(user_id).order_by(None)),
        audit_events.c.video_id.in_(own_videos),
        audit_events.c.blob_id.in_(bytes_),
        audit_events.c.blob_id.in_(put),
    )
    of_video = sa.exists().where(videos.c.id == audit_events.c.video_id, videos.c.user_id != user_id)
    wanted = sa.select(
        audit_events.c.id,
        audit_events.c.detail,
        sa.func.coalesce(is_theirs, sa.false()),
        sa.or_(audit_events.c.user_id.is_not(None), of_video),
    )
    is_next = sa.and_(audit_events.c.id > after, audit_events.c.salt.is_not(None))
    rows = session.execute(wanted.where(is_next).order_by(audit_events.c.id).limit(limit))
    return [Personal(place, detail, bool(theirs), bool(anothers)) for place, detail, theirs, anothers in rows]
