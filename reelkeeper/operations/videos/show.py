"""Send somebody to a video's bytes: a URL of the blob that it stands on now, and one more view."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from reelkeeper.errors import NotFound
from reelkeeper.model import VideoState
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.operations.videos.views import record_views
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import blobs, videos


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
