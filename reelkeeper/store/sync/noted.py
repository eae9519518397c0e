"""Note objects without a row of `blobs`, and a scan's verdict on each, by set-based statements in flat memory.

Noting changes no video, so a dry run notes and judges exactly as a real run does.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import VideoState
from reelkeeper.model.adoption import BY_CSV, IN_DOUBT, AdoptionVerdict
from reelkeeper.store.core.engine import changed, insert_into
from reelkeeper.store.tables import key_owners, orphans, videos
from reelkeeper.store.videos import conditions

_MANY: Final = 1_000  # notes, from which on the query plan matters
_NAMED = 3  # keys in an error
_KEPT: Final = ("key", "first_seen_at", "told_at")  # kept from an earlier note


class Owner(NamedTuple):
    """The imported owner of a key."""

    user_id: str | None
    video_id: str | None
    created_at: datetime | None


class Noted(NamedTuple):
    """An object without a row of `blobs`, and the scan's verdict on it."""

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime
    first_seen_at: datetime
    last_seen_at: datetime
    user_id: str
    video_id: str
    generation: int | None
    created_at: datetime | None


def owners(session: Session, keys: Sequence[str]) -> dict[str, Owner]:
    """Read the imported owners of `keys`."""
    rows = session.execute(sa.select(key_owners).where(key_owners.c.key.in_(keys)))
    return {row.key: Owner(row.user_id, row.video_id, row.created_at) for row in rows}


def note(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note objects, or update their notes; the time of the first note stays."""
    insert = insert_into(session, orphans)
    renewed = {column.name: insert.excluded[column.name] for column in orphans.c if column.name not in _KEPT}
    session.execute(insert.on_conflict_do_update(index_elements=["key"], set_=renewed), rows)


def use_own_ids(session: Session, scan_id: str) -> None:
    """Set a video's id to one made of user and name where another user's video has the name, in catalogue or scan.

    This does not depend on which was found first. All other videos keep their name as id.
    """
    to_adopt = judged(scan_id, AdoptionVerdict.ADOPT)
    contested = sa.select(orphans.c.name_id).where(to_adopt).group_by(orphans.c.name_id).having(_of_two_users())
    taken = sa.or_(_has_video(orphans.c.unique_id), _stands(orphans.c.name_id), orphans.c.name_id.in_(contested))
    session.execute(
        sa.update(orphans).where(to_adopt, ~_has_video(orphans.c.name_id), taken).values(video_id=orphans.c.unique_id)
    )


def leave_taken_ids(session: Session, scan_id: str) -> None:
    """Leave out objects whose id still belongs to another user's video."""
    to_adopt = judged(scan_id, AdoptionVerdict.ADOPT)
    crowded = sa.select(orphans.c.video_id).where(to_adopt).group_by(orphans.c.video_id).having(_of_two_users())
    foreign = sa.and_(_stands(orphans.c.video_id), ~_has_video(orphans.c.video_id))
    session.execute(
        sa.update(orphans)
        # guard adopt.taken_ids: an object is adopted under the id of another user's video
        .where(to_adopt, sa.or_(foreign, orphans.c.video_id.in_(crowded)))
        .values(verdict=AdoptionVerdict.ID_TAKEN)
    )


def take_back_lost(session: Session, scan_id: str) -> None:
    """Take back a lost video's newer generation; any other object of a known video is another of its files.

    One whose first upload failed has no file: it gets the object as a new video does.
    """
    lost = sa.exists().where(
        videos.c.id == orphans.c.video_id,
        videos.c.state == VideoState.LOST,
        videos.c.generation < orphans.c.generation,
        # guard sync.withdrawn_newer: a newer generation brings back a video that was taken down
        ~conditions.withdrawn(),
    )
    is_free = sa.exists().where(videos.c.id == orphans.c.video_id, conditions.never_came())
    session.execute(
        sa.update(orphans)
        .where(
            judged(scan_id, AdoptionVerdict.ADOPT),
            _has_video(orphans.c.video_id),
            # guard adopt.never_came: a video whose first upload failed is never shown or expired, once it is stored
            ~is_free,
        )
        .values(verdict=sa.case((lost, AdoptionVerdict.TAKE_BACK), else_=_further()))
    )


def keep_one_of_each(session: Session, scan_id: str) -> None:
    """Choose one of a video's files: the newest of our own generations, else by pattern, else by key."""
    place = sa.func.row_number().over(
        partition_by=orphans.c.video_id,
        order_by=(
            sa.func.coalesce(orphans.c.generation, 0).desc(),
            sa.func.coalesce(orphans.c.pattern, BY_CSV),
            orphans.c.key.collate("C") if session.get_bind().dialect.name == "postgresql" else orphans.c.key,
        ),
    )
    ranked = sa.select(orphans.c.key, place.label("place")).where(
        judged(scan_id, AdoptionVerdict.ADOPT, AdoptionVerdict.TAKE_BACK)
    )
    further = ranked.subquery()
    session.execute(
        sa.update(orphans)
        .where(orphans.c.scan_id == scan_id, orphans.c.key.in_(sa.select(further.c.key).where(further.c.place > 1)))
        .values(verdict=_further())
    )


def count_notes(session: Session, scan_id: str) -> None:
    """Make PostgreSQL analyse the table after many notes; by itself it would do so a minute later.

    Until then it expects few rows, and compares each with all others: 10,000 took three minutes instead of half a
    minute.
    """
    if session.get_bind().dialect.name == "postgresql":
        notes = sa.select(sa.func.count()).select_from(orphans).where(orphans.c.scan_id == scan_id)
        if session.execute(notes).scalar_one() >= _MANY:
            session.execute(sa.text("ANALYZE orphans"))


# in this order; each can be repeated
STEPS: Final = (count_notes, use_own_ids, leave_taken_ids, take_back_lost, keep_one_of_each)


def refuse(session: Session, scan_id: str) -> None:
    """Leave out the objects that patterns would adopt, and the further files of the same videos."""
    by_pattern = orphans.c.pattern > BY_CSV
    adopted = sa.select(orphans.c.video_id).where(judged(scan_id, AdoptionVerdict.ADOPT), by_pattern)
    files = judged(scan_id, AdoptionVerdict.ADOPT, AdoptionVerdict.ANOTHER_FILE)
    session.execute(
        sa.update(orphans)
        .where(files, by_pattern, orphans.c.video_id.in_(adopted))
        .values(verdict=AdoptionVerdict.REFUSED)
    )


def batch(
    session: Session,
    scan_id: str,
    verdicts: Sequence[AdoptionVerdict],
    after: str,
    limit: int,
    *,
    modified_by: datetime | None = None,
) -> list[Noted]:
    """Read the next notes with these verdicts after the key `after`, in the database's order."""
    wanted = () if modified_by is None else (orphans.c.last_modified <= modified_by,)
    rows = session.execute(
        sa.select(*(orphans.c[name] for name in Noted._fields))
        .where(judged(scan_id, *verdicts), orphans.c.key > after, *wanted)
        .order_by(orphans.c.key)
        .limit(limit)
    )
    return [Noted._make(row) for row in rows]


def tell(session: Session, scan_id: str, at: datetime) -> tuple[int, list[tuple[str, AdoptionVerdict]]]:
    """Mark doubtful notes that were not reported yet as reported; return how many, and the first three."""
    new = sa.and_(judged(scan_id, *IN_DOUBT), orphans.c.told_at.is_(None))
    named = session.execute(
        sa.select(orphans.c.key, orphans.c.verdict).where(new).order_by(orphans.c.key).limit(_NAMED)
    )
    first = [(row.key, AdoptionVerdict(row.verdict)) for row in named]
    return changed(session, sa.update(orphans).where(new).values(told_at=at)), first


def forget(session: Session, keys: Sequence[str]) -> None:
    """Drop the notes of objects that have a row now, or that no note may name."""
    session.execute(sa.delete(orphans).where(orphans.c.key.in_(keys)))


def judged(scan_id: str, *verdicts: AdoptionVerdict) -> sa.ColumnElement[bool]:
    """Build the condition that this scan gave a note one of `verdicts`."""
    return sa.and_(orphans.c.scan_id == scan_id, orphans.c.verdict.in_(verdicts))


def _of_two_users() -> sa.ColumnElement[bool]:
    return sa.func.min(orphans.c.user_id) != sa.func.max(orphans.c.user_id)


def _stands(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return sa.exists().where(videos.c.id == column)


def _has_video(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Build the condition that the note's user has a video with this id."""
    return sa.exists().where(videos.c.id == column, videos.c.user_id == orphans.c.user_id)


def _further() -> sa.ColumnElement[str]:
    """Return the verdict on a further object of a video, depending on who made its key."""
    is_own_key = orphans.c.generation.is_not(None)
    return sa.case((is_own_key, AdoptionVerdict.LEFTOVER), else_=sa.literal(AdoptionVerdict.ANOTHER_FILE))
