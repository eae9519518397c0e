"""Read everything that the store has about one user, table by table."""

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.adoption import AdoptionVerdict
from reelkeeper.store.tables import (
    accounts,
    audit_events,
    blobs,
    credit_holds,
    daily_views,
    former_ids,
    holds,
    jobs,
    keeps,
    notices,
    orphans,
    reservations,
    storage_accounts,
    transfers,
    uploads,
    users,
    videos,
)
from reelkeeper.store.videos.conditions import TAKEN_DOWN

_BATCH: Final = 1_000


class StoredVideo(NamedTuple):
    """The present, stored bytes of a video."""

    video_id: str
    key: str
    size_bytes: int
    etag: str | None


def _tables(user_id: str) -> dict[str, sa.Select[Any]]:
    own_videos = sa.select(videos.c.id).where(videos.c.user_id == user_id)
    reserved = sa.select(reservations.c.id).where(reservations.c.user_id == user_id)
    on_user = sa.and_(holds.c.scope == "user", holds.c.subject == user_id)
    on_video = sa.and_(holds.c.scope == "video", holds.c.subject.in_(own_videos))
    return {
        "user": sa.select(users).where(users.c.id == user_id),
        "former_ids": sa.select(former_ids).where(former_ids.c.user_id == user_id).order_by(former_ids.c.id),
        "storage": sa.select(storage_accounts).where(storage_accounts.c.user_id == user_id),
        "credits": sa.select(accounts).where(accounts.c.user_id == user_id).order_by(accounts.c.id),
        "transfers": sa.select(transfers).where(transfers.c.user_id == user_id).order_by(transfers.c.at),
        "credit_holds": sa.select(credit_holds)
        .where(credit_holds.c.user_id == user_id)
        .order_by(credit_holds.c.created_at),
        "reservations": sa.select(reservations)
        .where(reservations.c.user_id == user_id)
        .order_by(reservations.c.created_at),
        "videos": sa.select(videos).where(videos.c.user_id == user_id).order_by(videos.c.id),
        "objects": sa.select(blobs).where(blobs.c.video_id.in_(own_videos)).order_by(blobs.c.video_id, blobs.c.id),
        "views": sa.select(daily_views)
        .where(daily_views.c.video_id.in_(own_videos))
        .order_by(daily_views.c.video_id, daily_views.c.day),
        "jobs": sa.select(jobs).where(jobs.c.user_id == user_id).order_by(jobs.c.created_at),
        "uploads": sa.select(uploads).where(uploads.c.reservation_id.in_(reserved)).order_by(uploads.c.id),
        "holds": sa.select(holds).where(sa.or_(on_user, on_video)).order_by(holds.c.created_at),
        "notices": sa.select(notices).where(notices.c.video_id.in_(own_videos)).order_by(notices.c.id),
        "keeps": sa.select(keeps).where(keeps.c.video_id.in_(own_videos)).order_by(keeps.c.at),
        "history": sa.select(audit_events)
        .where(sa.or_(audit_events.c.user_id == user_id, audit_events.c.video_id.in_(own_videos)))
        .order_by(audit_events.c.id),
    }


# Data about users and videos that is not exported: our costs, our plans, and derived data.
LEFT_OUT: Final = MappingProxyType(
    {
        "charges": "what the user costs the service",
        "usage_days": "the quantities behind these charges",
        "verdicts": "what a plan proposed; what was done is in the history",
        "crf_searches": "the settings of encodes, and what they cost the service",
        "operations": "unfinished work on a video; what was done is in the history",
        "orphans": "objects without an owner yet",
        "key_owners": "owners that the service named for its keys",
        "cache_entries": "the video that answers a request; both are in the jobs",
    }
)
TABLES: Final = tuple(_tables(""))


def rows(session: Session, user_id: str) -> Iterator[tuple[str, Iterator[Mapping[str, Any]]]]:
    """Stream, by table, the rows about this user, as JSON values."""
    for name, query in _tables(user_id).items():
        found = session.execute(query, execution_options={"yield_per": _BATCH})
        yield name, ({key: _plain(value) for key, value in row.items()} for row in found.mappings())


def images(session: Session, user_id: str) -> list[str]:
    """List the SHA-256 of the images that jobs of this user started from."""
    sha256 = jobs.c.request["image_sha256"].as_string()
    wanted = sa.select(sha256).distinct().where(jobs.c.user_id == user_id, sha256.is_not(None)).order_by(sha256)
    return list(session.execute(wanted).scalars())


def service_keys(session: Session, user_id: str) -> list[str]:
    """List the keys of the service's that videos of this user have, or had, without those taken down."""
    wanted = (
        sa.select(blobs.c.key)
        .join(videos, videos.c.id == blobs.c.video_id)
        .where(
            videos.c.user_id == user_id,
            ~blobs.c.is_ours,
            # guard export.taken_down_beside: an export contains thumbnails of videos that were taken down
            videos.c.retire_reason.is_distinct_from(TAKEN_DOWN),
        )
    )
    return list(session.execute(wanted).scalars())


def other_files(session: Session) -> Iterator[str]:
    """Stream the keys of the objects that the last listings saw, and that are no videos by their names."""
    wanted = sa.select(orphans.c.key).where(orphans.c.verdict == AdoptionVerdict.NOT_A_VIDEO).order_by(orphans.c.key)
    yield from session.execute(wanted, execution_options={"yield_per": _BATCH}).scalars()


def stored_videos(session: Session, user_id: str, after: str, limit: int) -> list[StoredVideo]:
    """List the next videos of this user after the id `after` with stored bytes: live, or waiting out their grace."""
    wanted = (
        sa.select(videos.c.id, blobs.c.key, blobs.c.size_bytes, blobs.c.etag)
        .join(blobs, blobs.c.id == videos.c.blob_id)
        .where(
            videos.c.user_id == user_id,
            videos.c.id > after,
            videos.c.state.in_([VideoState.LIVE, VideoState.RETIRED]),
            blobs.c.state.in_([BlobState.LIVE, BlobState.RETIRED]),
            # guard export.taken_down: an export contains videos that were taken down
            videos.c.retire_reason.is_distinct_from(TAKEN_DOWN),
        )
        .order_by(videos.c.id)
        .limit(limit)
    )
    return [StoredVideo._make(row) for row in session.execute(wanted)]


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime | date) else value
