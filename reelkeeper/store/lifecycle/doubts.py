"""Store doubts: objects at keys of ours, which are written once, that are not as their blobs are recorded.

A doubt begins when a sync or a purge sees it. It ends when the object is as recorded or gone, when its bytes prove to
be the recorded ones, or by a person's word: the stored object becomes the record, or the blob is given up as lost.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Grace, Recorded, StoredObject
from reelkeeper.store.core.engine import insert_into, now, one_of
from reelkeeper.store.tables import blobs, doubts
from reelkeeper.store.videos.conditions import after_grace

_OPEN = doubts.c.settled_at.is_(None)
_OF_THE_BYTES = ("codec", "duration_seconds", "frames", "encoder", "recipe", "quality_mean", "quality_p5")


class Suspect(NamedTuple):
    """A blob whose object may not be as recorded, and what was found at its key before."""

    blob_id: int
    video_id: str | None
    recorded: Recorded
    sha256: str | None
    is_live: bool  # it must be stored
    seen: tuple[int | None, str | None] | None  # size and ETag; None: never in doubt
    seen_sha256: str | None
    is_settled: bool  # a person has given the blob up, and the object that was seen stays


class Doubt(NamedTuple):
    """A doubt as it is listed: what was expected, what is stored, and since when. Sizes in bytes."""

    id: int  # the blob's
    video_id: str | None
    key: str
    state: str
    expected_bytes: int
    expected_etag: str | None
    expected_sha256: str | None
    found_bytes: int | None
    found_etag: str | None
    found_sha256: str | None
    since: datetime
    seen_at: datetime


def size_and_etag(found: StoredObject | None) -> tuple[int | None, str | None]:
    """Return what identifies an object; a pair of None where nothing is stored."""
    return (None, None) if found is None else (found.size_bytes, found.etag)


def suspects(session: Session, keys: Sequence[str]) -> dict[str, Suspect]:
    """Read the blob of ours at each key: the open row, or else the newest `gone` one. Announced ones are left out."""
    found = (doubts.c.found_bytes, doubts.c.found_etag, doubts.c.found_sha256, doubts.c.seen_at, doubts.c.settled_at)
    rows = session.execute(
        sa.select(blobs.c.id, blobs.c.video_id, blobs.c.key, blobs.c.sha256, blobs.c.state, *found)
        .add_columns(*(blobs.c[name] for name in Recorded._fields))
        .outerjoin(doubts, doubts.c.blob_id == blobs.c.id)
        .where(one_of(session, blobs.c.key, keys), blobs.c.is_ours, blobs.c.state != BlobState.PENDING)
        .order_by(blobs.c.state != BlobState.GONE, blobs.c.id)  # the last row of a key counts
    )
    return {
        row.key: Suspect(
            row.id,
            row.video_id,
            Recorded(*(getattr(row, name) for name in Recorded._fields)),
            row.sha256,
            row.state == BlobState.LIVE,
            None if row.seen_at is None else (row.found_bytes, row.found_etag),
            row.found_sha256,
            row.settled_at is not None,
        )
        for row in rows
    }


def note(session: Session, suspect: Suspect, found: StoredObject | None, sha256: str | None) -> None:
    """Record a doubt, or what was found of it now. What a person has settled stays so while the same is stored."""
    at, (size_bytes, etag) = now(session), size_and_etag(found)
    seen = {"found_bytes": size_bytes, "found_etag": etag, "found_sha256": sha256, "seen_at": at}
    insert = insert_into(session, doubts).values(blob_id=suspect.blob_id, since=at, **seen)
    # guard doubts.settled_once: whatever is stored after a person has settled a doubt is taken for settled
    if suspect.is_settled and (size_bytes, etag) != suspect.seen:
        seen |= {"settled_at": None, "since": at}
    session.execute(insert.on_conflict_do_update(index_elements=["blob_id"], set_=seen))


def recognize(session: Session, suspect: Suspect, found: StoredObject) -> None:
    """Record the ETag of an object whose bytes are the recorded ones, and end its doubt."""
    session.execute(sa.delete(doubts).where(doubts.c.blob_id == suspect.blob_id))
    as_read = blobs.c.id == suspect.blob_id, blobs.c.sha256 == suspect.sha256
    session.execute(sa.update(blobs).where(*as_read).values(etag=found.etag))


def drop_unseen(session: Session, since: datetime) -> list[tuple[int, str | None]]:
    """Drop the doubts that a complete listing since then has not confirmed; return the open ones, and their videos."""
    unseen = doubts.c.seen_at < since
    ended = session.execute(
        sa.select(doubts.c.blob_id, blobs.c.video_id).join(blobs, blobs.c.id == doubts.c.blob_id).where(unseen, _OPEN)
    ).all()
    session.execute(sa.delete(doubts).where(unseen))
    return [(row.blob_id, row.video_id) for row in ended]


def listed(session: Session, blob_id: int | None = None) -> list[Doubt]:
    """List the open doubts, or only that of one blob, the oldest first."""
    columns: dict[str, sa.Column[Any]] = {column.name: column for column in (*blobs.c, *doubts.c)}
    names = ("video_id", "key", "state", "size_bytes", "etag", "sha256", "found_bytes", "found_etag", "found_sha256")
    rows = session.execute(
        sa.select(doubts.c.blob_id, *(columns[name] for name in names), doubts.c.since, doubts.c.seen_at)
        .join(blobs, blobs.c.id == doubts.c.blob_id)
        .where(_OPEN, sa.true() if blob_id is None else doubts.c.blob_id == blob_id)
        .order_by(doubts.c.since, doubts.c.blob_id)
    )
    return [Doubt._make(row) for row in rows]


def lock_as_listed(session: Session, doubt: Doubt) -> bool:
    """Check that blob and doubt are still as they were listed; the caller holds the deployment row until it ends."""
    # guard doubts.claimed: a doubt is settled whose object a purge may be deleting
    return doubt.state != BlobState.DELETING and (
        # guard doubts.as_listed: a doubt is settled although its blob, or what is stored, has changed since
        [again._replace(seen_at=doubt.seen_at) for again in listed(session, doubt.id)] == [doubt]
    )


def accept(session: Session, doubt: Doubt, sha256: str, grace: Grace) -> None:
    """Make the stored object the record of its blob, and end the doubt. A retired one gets a new grace."""
    anew = after_grace(now(session), grace)
    of_others = () if sha256 == doubt.expected_sha256 else _OF_THE_BYTES
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id == doubt.id)
        .values(
            size_bytes=doubt.found_bytes,
            etag=doubt.found_etag,
            sha256=sha256,
            # guard doubts.accepted_grace: an object that a person has accepted as the record is purged the same night
            purge_after=sa.case((blobs.c.state == BlobState.RETIRED, anew), else_=blobs.c.purge_after),
            **dict.fromkeys(of_others),
        )
    )
    session.execute(sa.delete(doubts).where(doubts.c.blob_id == doubt.id))


def give_up(session: Session, doubt: Doubt) -> None:
    """End the doubt for as long as the same is stored; nothing deletes it."""
    session.execute(sa.update(doubts).where(doubts.c.blob_id == doubt.id).values(settled_at=now(session)))


def let_go(session: Session, video_ids: Sequence[str]) -> list[tuple[int, str, str]]:
    """Make objects that a person has given up the record of these videos' retired blobs, so that they can be deleted.

    Return the blobs, their videos and keys.
    """
    given_up = sa.and_(
        doubts.c.blob_id == blobs.c.id, doubts.c.settled_at.is_not(None), doubts.c.found_bytes.is_not(None)
    )
    found = {
        name: sa.select(doubts.c[f"found_{name.removeprefix('size_')}"]).where(given_up).scalar_subquery()
        for name in ("size_bytes", "etag", "sha256")
    }
    chosen = blobs.c.video_id.in_(video_ids), blobs.c.state == BlobState.RETIRED, sa.exists().where(given_up)
    columns = (blobs.c.id, blobs.c.video_id, blobs.c.key)
    rows = [tuple(row) for row in session.execute(sa.update(blobs).where(*chosen).values(found).returning(*columns))]
    session.execute(sa.delete(doubts).where(one_of(session, doubts.c.blob_id, [row[0] for row in rows])))
    return rows
