"""On SQLite, rows named by id are looked up by id, whatever else is asked, and without statistics."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model import Grace
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.jobs import claims
from reelkeeper.store.lifecycle import retirements
from reelkeeper.store.sync import lost
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.videos import live_videos

NOON, GRACE = datetime(2026, 11, 24, 12, tzinfo=UTC), Grace()
BLOBS = list(range(500))
VIDEOS = [f"v{number}" for number in BLOBS]

STATEMENTS: dict[str, Callable[[Session], object]] = {
    "lost blobs": lambda session: lost.mark_blobs(session, BLOBS, "run"),
    "lost videos": lambda session: lost.mark_videos(session, BLOBS, "run"),
    "deleted": lambda session: lost.mark_deleted(session, BLOBS, "run"),
    "reappeared": lambda session: lost.retire_reappeared(session, BLOBS, "run", GRACE),
    "revived": lambda session: lost.revive(session, BLOBS, "run", GRACE),
    "retired videos": lambda session: retirements.retire_videos(session, "plan", VIDEOS, "run", {}, service_keys=True),
    "retired blobs": lambda session: retirements.retire_blobs(session, BLOBS, NOON, run_id="run", grace=GRACE),
    "broken": lambda session: retirements.broken(session, VIDEOS),
    "counted": lambda session: quotas.live_bytes(session, conditions.stands_on(session, BLOBS)),
    "judged again": lambda session: list(live_videos(session, NOON, only=VIDEOS)),
    "claimed": lambda session: claims.take(session, VIDEOS, "worker"),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_it_is_found_by_its_id(sqlite_engine: sa.Engine, name: str) -> None:
    steps = list[str]()

    def explain(_: object, cursor: sa.engine.interfaces.DBAPICursor, sql: str, parameters: Any, *__: object) -> None:  # noqa: ANN401  the driver's own
        if sql.startswith(("SELECT", "UPDATE")):
            cursor.execute("EXPLAIN QUERY PLAN " + sql, parameters)
            steps.extend(str(row[3]) for row in cursor.fetchall())

    with transaction(sqlite_engine, "test") as session:
        sa.event.listen(sqlite_engine, "before_cursor_execute", explain)
        STATEMENTS[name](session)
        sa.event.remove(sqlite_engine, "before_cursor_execute", explain)
    read = [step for step in steps if step.split()[1] in {"blobs", "videos", "jobs"}]
    assert read
    assert not [step for step in read if step.startswith("SCAN") or "ix_" in step]
