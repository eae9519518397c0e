"""Read everything that the store has about one user, table by table."""

from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.adoption import AdoptionVerdict
from reelkeeper.model.key_patterns import VIDEO_EXTENSIONS
from reelkeeper.store.tables import (
    accounts,
    audit_events,
    blobs,
    credit_holds,
    daily_views,
    former_ids,
    holds,
    input_images,
    jobs,
    keeps,
    key_owners,
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
_NO_VIDEOS: Final = (AdoptionVerdict.NOT_A_VIDEO, AdoptionVerdict.ODD_KEY)
_ENDS: Final = sorted({form for end in VIDEO_EXTENSIONS for form in (end, end.upper(), end.capitalize())})


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
        "charge_months": "the same, of days that are over",
        "usage_days": "the quantities behind these charges",
        "verdicts": "what a plan proposed; what was done is in the history",
        "crf_searches": "the settings of encodes, and what they cost the service",
        "operations": "unfinished work on a video; what was done is in the history",
        "orphans": "objects without an owner yet",
        "input_images": "the images that deleted jobs began with; the images themselves are exported",
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
    """List the SHA-256 of the images that jobs of this user start or started from."""
    return list(session.execute(select_images(lambda column: column == user_id).order_by("sha256")).scalars())


def select_images(is_chosen: Callable[[sa.Column[str]], sa.ColumnElement[bool]]) -> sa.CompoundSelect[Any]:
    """Build the query for the SHA-256 of the images of users, chosen by their id, that jobs start or started from."""
    sha256 = jobs.c.request["image_sha256"].as_string().label("sha256")
    return sa.union(
        sa.select(sha256).where(is_chosen(jobs.c.user_id), sha256.is_not(None)),
        sa.select(input_images.c.sha256).where(is_chosen(input_images.c.user_id)),
    )


def service_keys(session: Session, user_id: str) -> list[tuple[str, str | None, bool]]:
    """List the videos of this user with each key of the service's that they have or had, and whether taken down."""
    at_theirs = sa.and_(blobs.c.video_id == videos.c.id, ~blobs.c.is_ours)
    is_down = videos.c.retire_reason.is_not_distinct_from(TAKEN_DOWN)
    wanted = sa.select(videos.c.id, blobs.c.key, is_down).select_from(videos.outerjoin(blobs, at_theirs))
    return [(row[0], row[1], bool(row[2])) for row in session.execute(wanted.where(videos.c.user_id == user_id))]


def other_files(session: Session) -> Iterator[tuple[str, int]]:
    """Stream key and size of the objects that the last listings saw, and that are no videos by their names."""
    noted = sa.select(orphans.c.key, orphans.c.size_bytes).where(orphans.c.verdict.in_(_NO_VIDEOS))
    for row in session.execute(noted.order_by(orphans.c.key), execution_options={"yield_per": _BATCH}):
        yield row.key, row.size_bytes


def of_others(
    session: Session, user_id: str, stems: Mapping[str, set[str]], *, even_with_row: bool = False
) -> set[str]:
    """Return those keys that are videos, another user's by a CSV, or beside such a video, which has one of `stems`.

    `even_with_row`: but not those that are the user's own videos, at whose keys an upload may be under way.
    """
    keys = {key: {key, *(f"{stem}.{end}" for stem in names for end in _ENDS)} for key, names in stems.items()}
    asked = set[str]().union(*keys.values())
    of_another = (
        sa.select(blobs.c.key)
        .join(videos, videos.c.id == blobs.c.video_id)
        .where(blobs.c.key.in_(asked), videos.c.user_id != user_id)
    )
    named = sa.select(key_owners.c.key).where(
        key_owners.c.key.in_(asked), key_owners.c.user_id.is_not(None), key_owners.c.user_id != user_id
    )
    themselves = sa.select(blobs.c.key).where(blobs.c.key.in_(stems), blobs.c.state != BlobState.GONE)
    taken = set(session.execute(sa.union(of_another, named, *([] if even_with_row else [themselves]))).scalars())
    return {key for key, names in keys.items() if names & taken}


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
