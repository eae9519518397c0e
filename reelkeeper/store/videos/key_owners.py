"""Import the video and user of keys that do not contain them, from CSV, and find the video at a key.

    key,video_id,user_id,created_at   (all except the key may be empty or missing)

A key is as in the bucket, with the prefix. The import may run before or after `sync_catalog`.
"""

from collections.abc import Callable, Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.adoption import AdoptionVerdict
from reelkeeper.model.ids import identifier
from reelkeeper.store.core.engine import insert_into
from reelkeeper.store.tables import blobs, key_owners, orphans, videos
from reelkeeper.store.videos.csv_columns import Columns, CsvLine, Problem, created, whole_lines
from reelkeeper.store.videos.imports import Imported, import_lines, set_created


def _perhaps(text: str) -> str | None:
    return identifier(text) if text else None


_COLUMNS: Columns = {"video_id": _perhaps, "user_id": _perhaps, "created_at": created}


def import_keys(engine: sa.Engine, lines: Iterable[str], check: Callable[[str], str]) -> Imported:
    """Import the owner of each key, for the next `sync_catalog`, in place of an earlier import.

    An adopted video keeps its owner: it gets the creation time, and a line that names another user is skipped. `check`
    returns a valid key, or raises ValueError. Raises InputRefused, also for a key that is named twice.
    """

    def take(session: Session, batch: Sequence[CsvLine], problems: list[Problem]) -> int:
        if problems:
            return 0
        insert = insert_into(session, key_owners)
        session.execute(
            insert.on_conflict_do_update(
                index_elements=["key"], set_={name: insert.excluded[name] for name in _COLUMNS}
            ),
            [{name: line.values.get(name) for name in ("key", *_COLUMNS)} for line in batch],
        )
        adopted = _adopted(session, [line.values["key"] for line in batch])
        known = [(line.values, *adopted[line.values["key"]]) for line in batch if line.values["key"] in adopted]
        right = [(values, video_id) for values, video_id, owner in known if values.get("user_id") in (None, owner)]
        set_created(session, {video_id: at for values, video_id in right if (at := values.get("created_at"))})
        return len(known) - len(right)

    return import_lines(engine, "import.keys", whole_lines(lines, {"key": check}, ["key"], _COLUMNS), take)


def video_at(session: Session, key: str) -> str | None:
    """Find the video whose bytes are, or were last, at `key`."""
    found = _adopted(session, [key]).get(key)
    return found[0] if found else None


def noted_at(session: Session, key: str) -> AdoptionVerdict | None:
    """Read the last scan's verdict on the object at `key`, which has no row of `blobs`; None where there is none."""
    verdict = session.execute(sa.select(orphans.c.verdict).where(orphans.c.key == key)).scalar()
    return AdoptionVerdict(verdict) if verdict else None


def _adopted(session: Session, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Find the video at each of `keys`, and its user, by the key's last row."""
    rows = session.execute(
        sa.select(blobs.c.key, videos.c.id, videos.c.user_id)
        .join(videos, videos.c.id == blobs.c.video_id)
        .where(blobs.c.key.in_(keys))
        .order_by(blobs.c.id)
    )
    return {key: (video_id, user_id) for key, video_id, user_id in rows}
