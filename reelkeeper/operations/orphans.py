"""Objects that no row explains: adopt those whose keys say whose they are, sweep what is our own debris.

No byte is changed here. Each batch is a transaction of its own and can be repeated.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.adapters.keys import ParsedKey, parse_key
from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.operations.depot import Depot
from reelkeeper.operations.freeze import require_permission
from reelkeeper.operations.survey import Survey
from reelkeeper.store import quotas
from reelkeeper.store.audit import Event, append
from reelkeeper.store.engine import now, reading, transaction
from reelkeeper.store.leases import Grant
from reelkeeper.store.retirement import retired
from reelkeeper.store.tables import blobs, orphans, users, videos

ORPHAN_MIN_AGE = timedelta(hours=48)  # longer than any upload or presigned PUT that may still be under way
ORPHAN_MIN_WATCH = timedelta(hours=24)  # between the first and the last scan that saw it
_BATCH = 500


class Noted(NamedTuple):
    """An object that no row explains, and what its key says."""

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime
    first_seen_at: datetime
    last_seen_at: datetime
    parsed: ParsedKey


class Standing(NamedTuple):
    """What the catalogue knows of a video that a noted key names."""

    user_id: str
    state: str
    generation: int


def adopt(depot: Depot, survey: Survey, *, grant: Grant, run_id: str) -> tuple[int, int]:
    """Make videos of the noted objects; returns how many were adopted, and how many lost videos were taken back.

    An adopted video's age is its object's; its tier and views are unknown, and unknown keeps. A key that names a video
    of another user, or one more file of a video that is well, is left alone.
    """
    adopted = taken_back = 0
    newest = (max(group, key=_generation) for group in _noted_by_video(depot, survey))
    while batch := list(islice(newest, _BATCH)):
        with transaction(depot.engine, "sync.adopt") as session:
            require_permission(session, grant)
            standing = _standing(session, [noted.parsed.video_id for noted in batch])
            new = [noted for noted in batch if noted.parsed.video_id not in standing]
            back = [
                noted for noted in batch if _supersedes(noted, standing.get(noted.parsed.video_id), VideoState.LOST)
            ]
            _insert_videos(session, new)
            blob_ids = _insert_blobs(session, new + back, state=BlobState.LIVE, run_id=run_id)
            with quotas.counted(session, videos.c.id.in_([noted.parsed.video_id for noted in new + back])):
                _publish(session, new + back, blob_ids, run_id)
            _forget(session, new + back)
            append(session, [_event("adopt", noted, blob_ids, run_id) for noted in new])
            append(session, [_event("take_back", noted, blob_ids, run_id) for noted in back])
        adopted += len(new)
        taken_back += len(back)
    return adopted, taken_back


def sweep(depot: Depot, survey: Survey, *, grant: Grant, run_id: str, grace: Grace) -> int:
    """Retire orphans of our own making; returns how many.

    Only keys of our own shape, of no newer generation than their live video stands on, older than 48 h, and seen in
    scans at least 24 h apart. A newer generation than the catalogue knows means that the catalogue is old: never swept.
    """
    swept = 0
    debris = (
        noted
        for group in _noted_by_video(depot, survey)
        for noted in group
        if noted.parsed.generation is not None
        and noted.last_modified <= survey.started_at - ORPHAN_MIN_AGE
        and noted.first_seen_at <= noted.last_seen_at - ORPHAN_MIN_WATCH
    )
    while batch := list(islice(debris, _BATCH)):
        with transaction(depot.engine, "sync.sweep") as session:
            require_permission(session, grant)
            standing = _standing(session, [noted.parsed.video_id for noted in batch])
            doomed = [
                noted
                for noted in batch
                if (known := standing.get(noted.parsed.video_id)) is not None
                and known.state == VideoState.LIVE
                and _generation(noted) <= known.generation
            ]
            blob_ids = _insert_blobs(session, doomed, state=BlobState.RETIRED, run_id=run_id)
            session.execute(
                sa.update(blobs)
                .where(blobs.c.id.in_(blob_ids.values()))
                .values(**retired(now(session), grace, "an orphan of its video"))
            )
            _forget(session, doomed)
            append(session, [_event("orphan", noted, blob_ids, run_id) for noted in doomed])
        swept += len(doomed)
    return swept


def _noted_by_video(depot: Depot, survey: Survey) -> Iterator[list[Noted]]:
    """Group by video what this survey noted and whose key says whose it is."""
    noted_in_it = sa.select(*(orphans.c[name] for name in Noted._fields[:-1])).where(
        orphans.c.last_seen_at >= survey.started_at
    )
    with reading(depot.engine) as session:
        rows = session.execute(noted_in_it.order_by(orphans.c.key), execution_options={"yield_per": _BATCH})
        noted = (
            Noted._make((*row, parsed))
            for row in rows
            if (parsed := parse_key(depot.bucket.prefix, row.key)) is not None
        )
        for _, group in groupby(noted, key=lambda one: (one.parsed.user_id, one.parsed.video_id)):
            yield list(group)


def _generation(noted: Noted) -> int:
    return noted.parsed.generation or 0


def _supersedes(noted: Noted, known: Standing | None, state: VideoState) -> bool:
    return (
        known is not None
        and known.state == state
        and known.user_id == noted.parsed.user_id
        and _generation(noted) > known.generation
    )


def _standing(session: Session, video_ids: Sequence[str]) -> dict[str, Standing]:
    rows = session.execute(
        sa.select(videos.c.id, videos.c.user_id, videos.c.state, videos.c.generation)
        .where(videos.c.id.in_(video_ids))
        .with_for_update()
    )
    return {row.id: Standing(row.user_id, row.state, row.generation) for row in rows}


def _insert_videos(session: Session, new: Sequence[Noted]) -> None:
    owners = {noted.parsed.user_id for noted in new}
    known = set(session.execute(sa.select(users.c.id).where(users.c.id.in_(owners))).scalars())
    if owners - known:
        session.execute(sa.insert(users), [{"id": user_id} for user_id in sorted(owners - known)])
    if new:
        session.execute(
            sa.insert(videos),
            [
                {
                    "id": noted.parsed.video_id,
                    "user_id": noted.parsed.user_id,
                    "generation": 1,
                    "state": VideoState.PENDING,
                    "created_at": noted.last_modified,
                }
                for noted in new
            ],
        )


def _insert_blobs(session: Session, chosen: Sequence[Noted], *, state: BlobState, run_id: str) -> dict[str, int]:
    if not chosen:
        return {}
    rows = session.execute(
        sa.insert(blobs).returning(blobs.c.key, blobs.c.id),
        [
            {
                "video_id": noted.parsed.video_id,
                "generation": noted.parsed.generation or 1,
                "key": noted.key,
                "is_ours": noted.parsed.generation is not None,
                "state": state,
                "size_bytes": noted.size_bytes,
                "etag": noted.etag,
                "stored_at": noted.last_modified,
                "run_id": run_id,
            }
            for noted in chosen
        ],
    )
    return {row.key: row.id for row in rows}


def _publish(session: Session, chosen: Sequence[Noted], blob_ids: dict[str, int], run_id: str) -> None:
    for noted in chosen:
        session.execute(
            sa.update(videos)
            .where(videos.c.id == noted.parsed.video_id)
            .values(
                blob_id=blob_ids[noted.key],
                state=VideoState.LIVE,
                generation=noted.parsed.generation or 1,
                run_id=run_id,
            )
        )


def _forget(session: Session, chosen: Sequence[Noted]) -> None:
    session.execute(sa.delete(orphans).where(orphans.c.key.in_([noted.key for noted in chosen])))


def _event(event: str, noted: Noted, blob_ids: dict[str, int], run_id: str) -> Event:
    detail = {"key": noted.key, "bytes": noted.size_bytes}
    return Event(event, run_id, noted.parsed.video_id, blob_ids[noted.key], noted.parsed.user_id, detail)
