"""Fill a store with rows of every kind of value, and read them back, for tests that copy a store whole."""

from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import SQLModel

from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import blobs, crf_searches, daily_views, jobs, users, videos
from tests.jobs import waiting

SEARCH = {
    "encoder": "libx264",
    "preset": 5,
    "pixels": 230_400,
    "frames": 48,
    "video_bits": 0,
    "source_bytes": 2,
    "kept_bytes": 1,
    "outcome": "kept",
    "probes": [],
    "cpu_seconds": 0.5,
    "days": 90,
    "gain_microusd": 0,
    "cost_microusd": 0,
}
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def fill(engine: sa.Engine) -> None:
    """Write a user, a video with its bytes, its views and a search, and a job that follows another."""
    with transaction(engine, "test.fill") as session:
        session.execute(sa.insert(users), [{"id": "ada", "tier": ""}, {"id": "bob", "tier": None}])
        row = {"id": "v", "user_id": "ada", "state": "live", "generation": 1, "created_at": AT}
        session.execute(sa.insert(videos).values(row | {"retire_reason": 'a "quoted",\n naïve \\N\t line'}))
        session.execute(
            sa.insert(blobs).values(id=41, video_id="v", generation=1, key="k", state="live", size_bytes=2**40)
        )
        session.execute(sa.update(videos).values(blob_id=41))
        session.execute(sa.insert(daily_views).values(video_id="v", day=date(2026, 1, 1), views=3))
        session.execute(sa.insert(crf_searches).values(id=7, at=AT, run_id="run", video_id="v", **SEARCH))
        ids = ("a", "z")  # the first follows the second
        rows = [waiting(name, user_id="ada", leader_id=leader) for name, leader in zip(ids, ("z", None), strict=True)]
        session.execute(sa.insert(jobs), rows[::-1])
        append(session, [Event("adopt", "run", "v", 41, "ada", {"key": "k", "share": 0.1})])


def contents(engine: sa.Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Read all rows but those of the deployment and the audit record, in one order."""
    with reading(engine) as session:
        return {
            table.name: sorted(map(tuple, session.execute(sa.select(table))), key=repr)
            for table in SQLModel.metadata.sorted_tables
            if table.name not in {"deployment", "audit_events"}
        }
