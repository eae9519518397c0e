"""Views: the signal that keeps a video. A view of a retired video delays its purge by a grace.

They come from the service (`record_views`, or CSV by `store/imports`), or from Cloudflare's count of how often each
object was read. A read is not quite a view: a player that fetches a video in pieces makes several, and Reelkeeper's own
reads count too; both only ever keep a video longer. A CDN before the bucket hides views: no day is complete then.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from reelkeeper.adapters.cloudflare import KEPT_DAYS, Client
from reelkeeper.errors import NotFound
from reelkeeper.model import VideoState
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.store.core.engine import insert_into, now, reading, transaction
from reelkeeper.store.tables import blobs, daily_views, videos, view_days
from reelkeeper.store.videos.imports import set_complete

SETTLED_AFTER = timedelta(hours=1)  # analytics come 15 to 30 minutes late; a tiering at 02:00 still finds yesterday
_MOST_VIEWS = 2**31 - 1  # what the column holds on PostgreSQL
_KEYS_AT_ONCE = 1_000
_ONE_DAY = timedelta(days=1)


class ReadsOfDay(NamedTuple):
    """What came of a day's reads. `doubt` says why a video not named may have been viewed; empty: it was not."""

    day: date
    videos: int
    reads: int
    unknown_keys: int  # objects that no row of the catalogue explains
    doubt: str


def record_views(engine: Engine, views: Mapping[str, int], *, at: datetime) -> int:
    """Add `views` (video id -> how many) seen at `at`; returns how many of the ids are known. Others are left out."""
    with transaction(engine, "views") as session:
        known = set(session.execute(sa.select(videos.c.id).where(videos.c.id.in_(views))).scalars())
        if not known:
            return 0
        insert = insert_into(session, daily_views)
        session.execute(
            insert.on_conflict_do_update(
                index_elements=["video_id", "day"], set_={"views": _sum(daily_views.c.views, insert.excluded.views)}
            ),
            [{"video_id": video_id, "day": at.date(), "views": views[video_id]} for video_id in sorted(known)],
        )
        _move_last_viewed(session, sorted(known), at)
        return len(known)


def days_to_import(engine: Engine) -> list[date]:
    """List the days whose views are not complete, that are over and settled, and that Cloudflare still keeps."""
    with reading(engine) as session:
        at = now(session)
        recorded = set(session.scalars(sa.select(view_days.c.day)))
    days = (at.date() - n * _ONE_DAY for n in range(KEPT_DAYS, 0, -1))
    return [day for day in days if day not in recorded and day < (at - SETTLED_AFTER).date()]


def import_reads(engine: Engine, client: Client, bucket: str, day: date, *, complete: bool = False) -> ReadsOfDay:
    """Take the reads of each object on `day` as views of its video, whichever generation of it was read.

    A count that is known already stays if it is higher, so a day may be imported again. With `complete`, the day is
    marked as wholly recorded, unless it is not over and settled, is known from a sample, or has hours without any
    operation, in which data must be missing. Raises TokenRefused and UsageUnknown.
    """
    reads = client.object_reads(day, bucket=bucket)
    with transaction(engine, "views.reads") as session:
        owners = _owners(session, sorted(reads.by_key))
        views: Counter[str] = Counter()
        for key, video_id in owners.items():
            views[video_id] += reads.by_key[key]
        if views:
            insert = insert_into(session, daily_views)
            known = daily_views.c.views
            higher = sa.case((insert.excluded.views > known, insert.excluded.views), else_=known)
            session.execute(
                insert.on_conflict_do_update(index_elements=["video_id", "day"], set_={"views": higher}),
                [{"video_id": one, "day": day, "views": min(views[one], _MOST_VIEWS)} for one in sorted(views)],
            )
        over = datetime.combine(day + _ONE_DAY, time(), UTC)
        settled = now(session) >= over + SETTLED_AFTER
        seen, last = sorted(views), min(over, now(session))
        for start in range(0, len(seen), _KEYS_AT_ONCE):
            _move_last_viewed(session, seen[start : start + _KEYS_AT_ONCE], last)
        doubt = _doubt(sampled=reads.sampled, quiet_hours=reads.quiet_hours, settled=settled)
        if complete and not doubt:
            set_complete(session, [day])
    return ReadsOfDay(day, len(views), sum(views.values()), len(reads.by_key) - len(owners), doubt)


def _sum(known: sa.ColumnElement[int], more: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.case((known > _MOST_VIEWS - more, _MOST_VIEWS), else_=known + more)


def _owners(session: Session, keys: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        asked = blobs.c.key.in_(keys[start : start + _KEYS_AT_ONCE])
        rows = session.execute(sa.select(blobs.c.key, blobs.c.video_id).where(asked, blobs.c.video_id.is_not(None)))
        found.update((row.key, row.video_id) for row in rows)
    return found


def _doubt(*, sampled: bool, quiet_hours: tuple[int, ...], settled: bool) -> str:
    if not settled:
        return "the day is not over, or only just"
    if sampled:
        return "Cloudflare estimates the day's reads from a sample"
    if quiet_hours:
        hours = ", ".join(f"{hour:02}" for hour in quiet_hours)
        return f"Cloudflare has nothing at all of the hours {hours} (UTC), in which sync_catalog should have listed"
    return ""


def _move_last_viewed(session: Session, video_ids: Sequence[str], at: datetime) -> None:
    earlier = sa.or_(videos.c.last_viewed_at.is_(None), videos.c.last_viewed_at < at)
    session.execute(sa.update(videos).where(videos.c.id.in_(video_ids), earlier).values(last_viewed_at=at))


class Shown(NamedTuple):
    """Where the bytes are, until when."""

    url: str
    until: datetime


def show(depot: Depot, video_id: str, *, url_seconds: int) -> Shown:
    """Sign a URL to read the live video's present bytes, and count a view.

    A swap while the URL lives leaves the old bytes for a grace of days, so it keeps working. Raises NotFound for a
    video that is not there, or not live.
    """
    with reading(depot.engine) as session:
        row = session.execute(
            sa.select(videos.c.state, blobs.c.key)
            .select_from(videos.outerjoin(blobs, blobs.c.id == videos.c.blob_id))
            .where(videos.c.id == video_id)
        ).one_or_none()
    if row is None:
        raise NotFound(f"no video {video_id!r}")
    if row.state != VideoState.LIVE or row.key is None:
        raise NotFound(f"video {video_id!r} is {row.state}")
    at = datetime.now(UTC)
    record_views(depot.engine, {video_id: 1}, at=at)
    url = depot.bucket.presigned("get_object", row.key, url_seconds)
    return Shown(url, at + timedelta(seconds=url_seconds))
