"""Verify the demo's result: read each video back from the bucket, compare it and decode it."""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from reelkeeper.adapters import ffmpeg
from reelkeeper.cli.screen import size
from reelkeeper.errors import IntegrityDoubt, NotAVideo
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.store.billing import ledger
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import blobs, jobs, videos


def require_same(workspace: Workspace, video_id: str, original: Path) -> None:
    """Raise IntegrityDoubt unless the video is live and its stored bytes are those of `original`."""
    with reading(workspace.engine) as session:
        key = session.execute(_stored(videos.c.id == video_id, videos.c.state == "live")).one().key
    with tempfile.TemporaryDirectory() as place:
        digest = workspace.bucket.download(key, Path(place) / "back.mp4")
    if digest != _sha256(original):
        raise IntegrityDoubt(f"{key} is not what was uploaded as {original.name}")


def every_video(workspace: Workspace, originals: Mapping[str, Path]) -> Iterator[tuple[object, ...]]:
    """Return a row for each video: id, state, bytes, codec, and the result of reading it back.

    Raises IntegrityDoubt if a live video's bytes are not the recorded or uploaded ones, or do not decode although the
    upload did.
    """
    with reading(workspace.engine) as session:
        rows = session.execute(_stored().order_by(videos.c.user_id, videos.c.id)).all()
    for row in rows:
        if row.state != "live":
            gone = (
                "its bytes are deleted"
                if workspace.bucket.head(row.key) is None
                else "its bytes are kept during the grace"
            )
            yield row.id, row.state, size(row.size_bytes), row.codec, gone
            continue
        codec, said = _read_back(workspace, row, originals[row.id])
        yield row.id, row.state, size(row.size_bytes), codec, said


def every_job(workspace: Workspace, job_ids: Collection[str]) -> int:
    """Read the video of each of these jobs back; return the number of decoded frames.

    Raises IntegrityDoubt if a job did not succeed, its video differs from the record or from the requested size and
    length, credits are still held, or the credits spent are not the price of the videos made.
    """
    names = ("id", "user_id", "state", "leader_id", "video_id", "request", "price_microusd")
    with reading(workspace.engine) as session:
        rows = session.execute(sa.select(*(jobs.c[name] for name in names)).where(jobs.c.id.in_(job_ids))).all()
        balances = {user: ledger.balance(session, user) for user in {row.user_id for row in rows}}
    require(len(rows) == len(job_ids), f"{len(rows)} of {len(job_ids)} jobs are in the store")
    made = {row.id: row.video_id for row in rows if row.leader_id is None}
    frames = 0
    for row in rows:
        require(row.state == JobState.SUCCEEDED, f"job {row.id} is {row.state}")
        require(row.video_id == made[row.leader_id or row.id], f"job {row.id} has another video than the job it joined")
        frames += 0 if row.leader_id else _as_asked(workspace, row.video_id, row.request)
    for user, balance in balances.items():
        price = sum(row.price_microusd for row in rows if row.user_id == user and row.leader_id is None)
        told = f"{user}: {balance.held_microusd} held, {balance.spent_microusd} spent for {price}"
        require((balance.held_microusd, balance.spent_microusd) == (0, price), told)
    return frames


def require_bytes(workspace: Workspace, video_id: str, got: bytes) -> None:
    """Raise IntegrityDoubt unless these bytes are the recorded ones of the video."""
    with reading(workspace.engine) as session:
        recorded = session.execute(_stored(videos.c.id == video_id)).one().sha256
    require(sha256(got).hexdigest() == recorded, f"{video_id}: the bytes received are not those recorded")


def require(holds: bool, otherwise: str) -> None:
    """Raise IntegrityDoubt with the message `otherwise` unless the condition holds."""
    if not holds:
        raise IntegrityDoubt(otherwise)


def _as_asked(workspace: Workspace, video_id: str, asked: Mapping[str, Any]) -> int:
    with reading(workspace.engine) as session:
        row = session.execute(_stored(videos.c.id == video_id, videos.c.state == "live")).one()
    with tempfile.TemporaryDirectory() as place:
        back = Path(place) / "made.mp4"
        digest = workspace.bucket.download(row.key, back)
        media = ffmpeg.inspect(back)
        frames = ffmpeg.decode(back, media).frames
    wanted = asked["width"], asked["height"], round(asked["duration_seconds"] * asked["fps"])
    require(digest == row.sha256, f"{row.key}: sha256 {digest}, recorded {row.sha256}")
    require((media.width, media.height, frames) == wanted, f"{row.key}: {media}, {frames} frames; asked for {wanted}")
    return frames


def _read_back(workspace: Workspace, row: sa.Row[tuple[str, ...]], original: Path) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as place:
        back = Path(place) / f"back{Path(row.key).suffix}"
        digest, uploaded = workspace.bucket.download(row.key, back), _sha256(original)
        if digest != (row.sha256 or uploaded):
            raise IntegrityDoubt(f"{row.key}: sha256 {digest}, recorded {row.sha256 or uploaded}")
        same = digest == uploaded
        try:
            media = ffmpeg.inspect(back)
            frames = ffmpeg.decode(back, media).frames
        except NotAVideo:
            if not same:
                raise
            return "broken", "as uploaded: the upload itself is broken, so it was left alone"
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
