"""What the service says of keys that do not say it themselves, from CSV, and the video that is at a key.

    key,video_id,user_id,created_at   (all but the key may be empty, or have no column)

A key as the bucket has it, with the prefix. It may come before or after `sync_catalog`.
"""

from collections.abc import Callable, Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.adoption import AdoptionVerdict
from reelkeeper.store.core.engine import insert_into
from reelkeeper.store.tables import blobs, key_owners, orphans, videos
from reelkeeper.store.videos.csv_columns import Columns, CsvLine, Problem, identifier, moment, whole_lines
from reelkeeper.store.videos.imports import Imported, import_lines, set_created


def _perhaps(text: str) -> str | None:
    return identifier(text) if text else None


_SAID: Columns = {"video_id": _perhaps, "user_id": _perhaps, "created_at": moment}


def import_keys(engine: sa.Engine, lines: Iterable[str], check: Callable[[str], str]) -> Imported:
    """Take in whose each key is, for the next `sync_catalog`, in place of what was said of it before.

    What is adopted stays whose it is: its video gets the creation time, and a line that names another user is skipped.
    `check` gives a key back, or raises ValueError. Raises InputRefused, also for a key that is named twice.
    """
    seen: set[int] = set()

    def take(session: Session, batch: Sequence[CsvLine], problems: list[Problem]) -> int:
        for line in batch:
            fingerprint = hash(line.values["key"])
            if fingerprint in seen:
                problems.append(Problem(line.number, "key", line.values["key"], "is named twice"))
            seen.add(fingerprint)
        if problems:
            return 0
        insert = insert_into(session, key_owners)
        session.execute(
            insert.on_conflict_do_update(index_elements=["key"], set_={name: insert.excluded[name] for name in _SAID}),
            [{name: line.values.get(name) for name in ("key", *_SAID)} for line in batch],
        )
        adopted = _adopted(session, [line.values["key"] for line in batch])
        known = [(line.values, *adopted[line.values["key"]]) for line in batch if line.values["key"] in adopted]
        right = [(values, video_id) for values, video_id, owner in known if values.get("user_id") in (None, owner)]
        set_created(session, {video_id: at for values, video_id in right if (at := values.get("created_at"))})
        return len(known) - len(right)

    return import_lines(engine, "import.keys", whole_lines(lines, {"key": check}, optional=_SAID), take)


def video_at(session: Session, key: str) -> str | None:
    """Name the video whose bytes are, or were last, at `key`."""
    found = _adopted(session, [key]).get(key)
    return found[0] if found else None


def noted_at(session: Session, key: str) -> AdoptionVerdict | None:
    """Say what the last scan made of the object at `key`, which no row explains; None where there is none."""
    verdict = session.execute(sa.select(orphans.c.verdict).where(orphans.c.key == key)).scalar()
    return AdoptionVerdict(verdict) if verdict else None


def _adopted(session: Session, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Find the video at each of `keys`, and whose it is: of several rows of a key the last counts."""
    rows = session.execute(
        sa.select(blobs.c.key, videos.c.id, videos.c.user_id)
        .join(videos, videos.c.id == blobs.c.video_id)
        .where(blobs.c.key.in_(keys))
        .order_by(blobs.c.id)
    )
    return {key: (video_id, user_id) for key, video_id, user_id in rows}
