"""The last word of the demo: what the bucket holds of each video, read back, compared and decoded."""

import tempfile
from collections.abc import Iterator, Mapping
from hashlib import file_digest
from pathlib import Path

import sqlalchemy as sa

from reelkeeper.adapters import ffmpeg
from reelkeeper.cli.screen import size
from reelkeeper.errors import IntegrityDoubt, NotAVideo
from reelkeeper.operations.depot import Depot
from reelkeeper.store.engine import reading
from reelkeeper.store.tables import blobs, videos


def require_same(depot: Depot, video_id: str, original: Path) -> None:
    """Raise IntegrityDoubt unless the video is live and what is stored of it is `original`, byte for byte."""
    with reading(depot.engine) as session:
        key = session.execute(_stored(videos.c.id == video_id, videos.c.state == "live")).one().key
    with tempfile.TemporaryDirectory() as place:
        digest = depot.bucket.download(key, Path(place) / "back.mp4")
    if digest != _sha256(original):
        raise IntegrityDoubt(f"{key} is not what was uploaded as {original.name}")


def every_video(depot: Depot, originals: Mapping[str, Path]) -> Iterator[tuple[object, ...]]:
    """Give a row for each video: id, state, bytes, codec, and what reading it back showed.

    Raises IntegrityDoubt where a live video's bytes are not those recorded, or uploaded, or do not decode although the
    upload did.
    """
    with reading(depot.engine) as session:
        rows = session.execute(_stored().order_by(videos.c.user_id, videos.c.id)).all()
    for row in rows:
        if row.state != "live":
            gone = "its bytes are deleted" if depot.bucket.head(row.key) is None else "its bytes wait out their grace"
            yield row.id, row.state, size(row.size_bytes), row.codec, gone
            continue
        codec, said = _read_back(depot, row, originals[row.id])
        yield row.id, row.state, size(row.size_bytes), codec, said


def _read_back(depot: Depot, row: sa.Row[tuple[str, ...]], original: Path) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as place:
        back = Path(place) / f"back{Path(row.key).suffix}"
        digest, uploaded = depot.bucket.download(row.key, back), _sha256(original)
        if digest != (row.sha256 or uploaded):
            raise IntegrityDoubt(f"{row.key}: sha256 {digest}, recorded {row.sha256 or uploaded}")
        same = digest == uploaded
        try:
            media = ffmpeg.inspect(back)
            frames = ffmpeg.decode(back, media).frames
        except NotAVideo:
            if not same:
                raise
            return "broken", "as uploaded, and broken before it came: left alone"
    quality = f", VMAF {row.quality_mean:.1f} of 100" if row.quality_mean else ""
    return media.codec, f"{'as uploaded' if same else 'shrunk'}, all {frames} frames decode{quality}"


def _stored(*wanted: sa.ColumnElement[bool]) -> sa.Select[tuple[str, ...]]:
    columns = (blobs.c.key, blobs.c.size_bytes, blobs.c.codec, blobs.c.sha256, blobs.c.quality_mean)
    return (
        sa.select(videos.c.id, videos.c.state, *columns)
        .select_from(videos.join(blobs, blobs.c.id == videos.c.blob_id))
        .where(*wanted)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
