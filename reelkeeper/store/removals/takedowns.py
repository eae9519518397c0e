"""Record takedowns: videos no longer served, and bytes never to be published again."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.adoption import AdoptionVerdict
from reelkeeper.store.core.engine import checked, insert_into, now, one_of
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import notices
from reelkeeper.store.tables import blobs, blocked_bytes, orphans, videos
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.conditions import TAKEN_DOWN

_OPEN = (BlobState.LIVE, BlobState.PENDING, BlobState.RETIRED, BlobState.LOST)


class Target(NamedTuple):
    """Bytes of a video that is taken down. `sha256` is None where they were never read."""

    blob_id: int
    video_id: str
    key: str
    size_bytes: int
    etag: str | None
    sha256: str | None
    state: str
    is_ours: bool


class LockedVideo(NamedTuple):
    """The catalogue's record of a video before it is taken down."""

    user_id: str
    blob_id: int | None
    is_down: bool


def lock_videos(session: Session, video_ids: Sequence[str]) -> dict[str, LockedVideo]:
    """Read and lock the videos of these ids until the transaction ends."""
    down = sa.func.coalesce(videos.c.retire_reason == TAKEN_DOWN, sa.false())
    rows = session.execute(
        sa.select(videos.c.id, videos.c.user_id, videos.c.blob_id, down)
        .where(videos.c.id.in_(video_ids))
        .with_for_update()
    )
    return {video_id: LockedVideo(*known) for video_id, *known in rows}


def targets(session: Session, video_ids: Sequence[str]) -> list[Target]:
    """List the bytes that these videos have or had, the oldest first."""
    columns = (blobs.c.id, *(blobs.c[name] for name in Target._fields[1:]))
    rows = session.execute(sa.select(*columns).where(blobs.c.video_id.in_(video_ids)).order_by(blobs.c.id))
    return [Target(*row) for row in rows]


def videos_with_same_bytes(session: Session, video_id: str) -> list[str]:
    """List the other videos that store the same bytes as this one: by SHA-256, or by ETag and size."""
    blocked = sa.select(blobs.c.id).where(blobs.c.video_id == video_id)
    rows = session.execute(
        sa.select(blobs.c.video_id)
        .distinct()
        .where(
            blobs.c.video_id != video_id,
            blobs.c.state != BlobState.GONE,
            _is_blocked(blocked_bytes.c.blob_id.in_(blocked)),
        )
        .order_by(blobs.c.video_id)
    )
    return list(rows.scalars())


def mark(session: Session, video_ids: Sequence[str], run_id: str) -> None:
    """Stop serving these videos, and end their notices and the grace of all their bytes."""
    at = now(session)
    session.execute(
        sa.update(videos)
        .where(videos.c.id.in_(video_ids))
        .values(
            state=sa.case(
                (sa.or_(videos.c.state == VideoState.GONE, videos.c.blob_id.is_(None)), VideoState.GONE),
                else_=VideoState.RETIRED,
            ),
            retired_at=sa.func.coalesce(videos.c.retired_at, at),
            retire_reason=TAKEN_DOWN,
            run_id=run_id,
        )
    )
    session.execute(
        sa.update(blobs)
        .where(blobs.c.video_id.in_(video_ids), blobs.c.state.in_(_OPEN), conditions.stands())
        .values(
            state=BlobState.RETIRED,
            retired_at=sa.func.coalesce(blobs.c.retired_at, at),
            purge_after=at,
            retire_reason=TAKEN_DOWN,
            run_id=run_id,
        )
    )
    # guard takedown.notice: a user is told that a video will expire which was taken down
    notices.end(session, video_ids, "taken down")


def block(session: Session, found: Sequence[Target]) -> set[int]:
    """Block these bytes from being published again; return the blobs that were not blocked before."""
    at = now(session)
    rows = [
        {
            "blob_id": target.blob_id,
            "sha256": target.sha256,
            "etag": target.etag,
            "size_bytes": target.size_bytes,
            "blocked_at": at,
        }
        for target in found
    ]
    if not rows:
        return set()
    insert = insert_into(session, blocked_bytes).on_conflict_do_nothing().returning(blocked_bytes.c.blob_id)
    return set(session.execute(insert, rows).scalars())


def note_digests(session: Session, digests: Mapping[int, str]) -> None:
    """Record the SHA-256 of bytes that were read before their deletion."""
    for blob_id, sha256 in digests.items():
        session.execute(sa.update(blobs).where(blobs.c.id == blob_id).values(sha256=sha256))


def find_blocked(session: Session, blob_ids: Sequence[int]) -> dict[str, int]:
    """Return those of `blob_ids` whose bytes were taken down, by the video that uses, or would use, each."""
    wanted = sa.select(blobs.c.video_id, blobs.c.id).where(blobs.c.id.in_(blob_ids), _is_blocked(sa.true()))
    return {row.video_id: row.id for row in session.execute(wanted) if row.video_id is not None}


def claim(session: Session, blob_ids: Sequence[int], lease: Lease, *, run_id: str) -> None:
    """Claim those of `blob_ids` that were taken down, under `lease`; only legal holds prevent it."""
    at = now(session)
    may_go = sa.exists().where(
        videos.c.id == blobs.c.video_id,
        # guard takedown.marked: the bytes of a video that was not taken down are deleted without a grace
        videos.c.retire_reason == TAKEN_DOWN,
        # guard takedown.legal_hold: bytes under a legal hold are deleted
        ~conditions.held(videos.c.id, videos.c.user_id, at, legal=True),
    )
    session.execute(
        sa.update(blobs)
        # guard takedown.unclaimed: a takedown takes over blobs that a purge is deleting
        .where(one_of(session, blobs.c.id, blob_ids), checked(blobs.c.state == BlobState.RETIRED), may_go)
        .values(state=BlobState.DELETING, run_id=run_id, claimed_at=at, claim_token=lease.token)
    )


def legally_held(session: Session, video_ids: Sequence[str]) -> set[str]:
    """Return those of `video_ids` that are under a legal hold."""
    held = conditions.held(videos.c.id, videos.c.user_id, now(session), legal=True)
    return set(session.execute(sa.select(videos.c.id).where(videos.c.id.in_(video_ids), held)).scalars())


def _is_blocked(among: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Build the condition that the bytes of a blob are blocked: two EXISTS, so that each uses its index."""
    same = (
        # guard takedown.same_sha256: bytes that were taken down are uploaded or made again
        blocked_bytes.c.sha256 == blobs.c.sha256,
        # guard takedown.same_etag: the service stores bytes again that were taken down, and whose SHA-256 is unknown
        sa.and_(blocked_bytes.c.etag == blobs.c.etag, blocked_bytes.c.size_bytes == blobs.c.size_bytes),
    )
    return sa.or_(*(sa.exists().where(equal, among) for equal in same))


def files_noted(session: Session, stems: Iterable[str]) -> set[str]:
    """Return the keys, beginning with one of `stems`, of what the last listings saw and is no video by its name."""
    found = set[str]()
    for stem in stems:
        begins = orphans.c.key.startswith(stem, autoescape=True)
        no_video = orphans.c.verdict == AdoptionVerdict.NOT_A_VIDEO
        found |= set(session.execute(sa.select(orphans.c.key).where(begins, no_video)).scalars())
    return found
