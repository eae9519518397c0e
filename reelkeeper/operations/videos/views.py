"""Record views, which keep a video. A view of a retired video delays its purge by a grace.

They come from the service (`record_views`, or CSV by `store/imports`), or from Cloudflare's count of how often each
object was read. A read is not quite a view: a player that fetches a video in parts makes several, and Reelkeeper's own
reads count too. Both only keep a video longer. A CDN before the bucket hides views, so no day is complete then.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from reelkeeper.adapters.cloudflare import KEPT_DAYS, Client
from reelkeeper.errors import NotFound, NotPlayable
from reelkeeper.model import VideoState
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.store import Engine
from reelkeeper.store.core import former_ids
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.videos import views as rows
from reelkeeper.store.videos.imports import set_complete

SETTLED_AFTER = timedelta(hours=1)  # analytics are 15 to 30 minutes late; the tiering at 02:00 still gets yesterday
_ONE_DAY = timedelta(days=1)


class ReadsOfDay(NamedTuple):
    """The result of importing a day's reads. `doubt`: why an unlisted video may have been viewed; empty: none was."""

    day: date
    videos: int
    reads: int
    unknown_keys: int  # objects without a row in the catalogue
    doubt: str


def record_views(engine: Engine, views: Mapping[str, int], *, at: datetime) -> list[str]:
    """Add `views` (video id -> count) at the time `at`; return the unknown ids, which are left out."""
    with transaction(engine, "views") as session:
        known = rows.lock(session, {video_id: video_id for video_id in views})
        known |= rows.lock(session, former_ids.known_videos(session, views.keys() - known.keys()))
        sums: Counter[str] = Counter()
        for named, video_id in known.items():
            sums[video_id] += views[named]
        if sums:
            rows.add(session, at.date(), dict(sorted(sums.items())))
            rows.move_last_viewed(session, sorted(sums), at)
        return sorted(views.keys() - known.keys())


def days_to_import(engine: Engine) -> list[date]:
    """List the past, settled days with incomplete views that Cloudflare still keeps."""
    with reading(engine) as session:
        at = now(session)
        recorded = rows.recorded_days(session)
    days = (at.date() - n * _ONE_DAY for n in range(KEPT_DAYS, 0, -1))
    return [day for day in days if day not in recorded and day < (at - SETTLED_AFTER).date()]


def import_reads(engine: Engine, client: Client, bucket: str, day: date, *, complete: bool = False) -> ReadsOfDay:
    """Record the reads of each object on `day` as views of its video, of whichever generation.

    A known count stays if it is higher, so a day may be imported again. With `complete`, the day is marked as
    completely recorded, unless it is not over and settled, is estimated from a sample, or has hours without any
    operation, in which data must be missing. Raises TokenRefused and UsageUnknown.
    """
    reads = client.object_reads(day, bucket=bucket)
    with transaction(engine, "views.reads") as session:
        owners = rows.lock(session, rows.videos_at(session, sorted(reads.by_key)))
        views: Counter[str] = Counter()
        for key, video_id in owners.items():
            views[video_id] += reads.by_key[key]
        if views:
            rows.keep_higher(session, day, {view: views[view] for view in sorted(views)})
        over = datetime.combine(day + _ONE_DAY, time(), UTC)
        settled = now(session) >= over + SETTLED_AFTER
        rows.move_last_viewed(session, sorted(views), min(over, now(session)))
        doubt = _doubt(sampled=reads.sampled, quiet_hours=reads.quiet_hours, settled=settled)
        if complete and not doubt:
            set_complete(session, [day])
    return ReadsOfDay(day, len(views), sum(views.values()), len(reads.by_key) - len(owners), doubt)


def _doubt(*, sampled: bool, quiet_hours: tuple[int, ...], settled: bool) -> str:
    if not settled:
        return "the day has not ended, or ended only recently"
    if sampled:
        return "Cloudflare estimates the day's reads from a sample"
    if quiet_hours:
        hours = ", ".join(f"{hour:02}" for hour in quiet_hours)
        return (
            f"Cloudflare reports no requests at all in the hours {hours} (UTC), not even the listings of sync_catalog"
        )
    return ""


class Shown(NamedTuple):
    """A presigned URL of a video's bytes, and when it expires."""

    url: str
    until: datetime


def show(
    workspace: Workspace,
    video_id: str,
    *,
    url_seconds: int,
    plays: Collection[str] = (),
    user_id: str | None = None,
    counts: bool = True,
) -> Shown:
    """Sign a URL to read a live video: for the present bytes, if they are in a codec of `plays`. It `counts` as a view.

    Otherwise for the bytes that these were made from, if they outlast the URL. Empty, `plays` is any codec; bytes of an
    unknown codec, which were adopted and never opened, count as playable. A swap while the URL is valid leaves the old
    bytes for a grace of days, so the URL keeps working. Raises NotFound for a video that is unknown, not live, or not
    of `user_id`, and NotPlayable.
    """
    at = datetime.now(UTC)
    until = at + timedelta(seconds=url_seconds)
    with reading(workspace.engine) as session:
        found = rows.find_copies(session, video_id, until, user_id)
    if found is None:
        raise NotFound.for_user("video", video_id, user_id)
    if found.state != VideoState.LIVE or found.present is None:
        raise NotFound(f"video {video_id!r} is {found.state}")
    copies = [copy for copy in (found.present, found.original) if copy]
    shown = next((copy for copy in copies if not plays or copy.codec is None or copy.codec in plays), None)
    if shown is None:
        there = " and ".join(dict.fromkeys(str(copy.codec) for copy in copies))
        raise NotPlayable(f"video {video_id!r} is stored as {there}, but the client plays only {', '.join(plays)}")
    if counts:
        record_views(workspace.engine, {video_id: 1}, at=at)
    return Shown(workspace.bucket.presigned("get_object", shown.key, url_seconds), until)
