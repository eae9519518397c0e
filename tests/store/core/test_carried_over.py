"""Migrations keep the contents of a store of an earlier version, in the form of the new one."""

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from inline_snapshot import snapshot

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.model.money import Metric
from reelkeeper.operations.billing.metering import charge
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.store.billing.charges import open_before, sums
from reelkeeper.store.billing.recount import mismatches
from reelkeeper.store.core import schema
from reelkeeper.store.core.audit import erase, events, verify
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.former_ids import known_user
from reelkeeper.store.core.schema import VERSIONS, deployment, upgrade
from reelkeeper.store.tables import charges, daily_views, former_ids, job_totals, usage_days, videos
from tests import jobs as queue
from tests.marks import marked

NewUrl = Callable[[str], str]
Older = Callable[[str], sa.Engine]


@pytest.fixture(params=["sqlite", "postgresql"])
def older(request: pytest.FixtureRequest, empty_url: NewUrl) -> Iterator[Older]:
    """Make a store with the schema of a revision."""
    engine = open_engine(empty_url(request.param))

    def make(revision: str) -> sa.Engine:
        config = schema._config([VERSIONS])
        with schema._alone(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        return engine

    yield make
    engine.dispose()


def put(engine: sa.Engine, name: str, *rows: dict[str, Any]) -> None:
    """Insert rows into a table as it is there, whatever its columns are called today."""
    with engine.begin() as connection:
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        connection.execute(sa.insert(table), [{k: v for k, v in row.items() if k in table.c} for row in rows])


def test_jobs_in_flight_at_the_migration_of_totals_are_counted(older: Older) -> None:
    engine = older("0012")
    rows = [queue.waiting("a", price_microusd=5), queue.waiting("b", tier=None, quoted_cost_microusd=7)]
    rows += [queue.dead("c", queue.NOON), queue.waiting("d", leader_id="a", price_microusd=9)]
    put(engine, "users", {"id": "ann", "tier": "pro"})
    put(engine, "jobs", *({"quoted_cost_microusd": None, **row} for row in rows))
    upgrade(engine)
    with reading(engine) as session:
        kept = {row.scope: row.microusd for row in session.execute(sa.select(job_totals))}
        assert kept == {"all:jobs": 12, "model:svd": 12, "tier:free": 5, "user:ann": 12}
        assert mismatches(session) == []


def test_a_video_whose_job_is_known_has_its_model_from_the_beginning(older: Older) -> None:
    engine = older("0015")
    put(engine, "users", {"id": "ann"})
    put(engine, "videos", *({"id": f"v{n}", "user_id": "ann", "state": "live", "generation": 1} for n in range(3)))
    put(engine, "jobs", queue.dead("j0", queue.NOON) | {"video_id": "v0", "model": "sketch-1"})
    upgrade(engine)
    with reading(engine) as session:
        rows = session.execute(sa.select(videos.c.id, videos.c.model, videos.c.tag).order_by(videos.c.id))
        assert [tuple(row) for row in rows] == [("v0", "sketch-1", None), ("v1", None, None), ("v2", None, None)]


def test_days_with_clips_are_charged_after_the_migration_as_before(older: Older) -> None:
    """Then no job of the model had a flat price on a day with a clip; on the others all had. R2's charges name it."""
    day, before = date(2026, 11, 4), date(2026, 11, 3)
    counted = ((before, "jobs", 3), (day, "jobs", 2), (day, "job_microusd", 5))
    rest = {"source": "store", "resource": "veo", "storage_class": "", "sampled": False}
    used = [dict(zip(("day", "metric", "quantity"), row, strict=True)) | rest for row in counted]
    cost = {"consumed_quantity": 1, "consumed_unit": "u", "list_nanousd": 1, "billed_nanousd": 1, "price_book": "b"}
    cost |= {"day": day, "user_id": "", "estimated": False, "policy_version": 0}
    engine = older("0020")
    put(engine, "usage_days", *(row | {"user_id": user} for row in used for user in ("", "ann")))
    put(engine, "charges", *({"service": name, "sku": name, **cost} for name in ("r2-storage", "api")))
    upgrade(engine)
    with reading(engine) as session:
        found = sa.select(usage_days.c.day, usage_days.c.user_id, usage_days.c.quantity)
        rows = session.execute(found.where(usage_days.c.metric == Metric.CLIP_JOBS).order_by(usage_days.c.user_id))
        assert [tuple(row) for row in rows] == [(day, "", 2), (day, "ann", 2)]
        of = {row.service: row.provider for row in session.execute(sa.select(charges))}
        assert of == {"api": "", "r2-storage": "Cloudflare"}


def test_views_are_the_same_once_they_are_kept_by_key(older: Older) -> None:
    engine = older("0034")
    put(engine, "users", {"id": "ann"})
    put(engine, "videos", *({"id": f"v{n}", "user_id": "ann", "state": "live", "generation": 1} for n in range(3)))
    seen = [("v2", date(2026, 11, 4), 5), ("v0", date(2026, 11, 4), 1), ("v0", date(2026, 11, 3), 0)]
    put(engine, "daily_views", *(dict(zip(("video_id", "day", "views"), row, strict=True)) for row in seen))
    upgrade(engine)
    with reading(engine) as session:
        assert {tuple(row) for row in session.execute(sa.select(daily_views))} == set(seen)
    with pytest.raises(sa.exc.IntegrityError), transaction(engine, "test") as session:
        session.execute(sa.insert(daily_views).values(video_id="nobody", day=date(2026, 11, 4), views=1))


def recorded_before_seals(engine: sa.Engine, count: int = 5) -> str:
    """Write an audit record in the form of before revision 0017; return the head of its chain."""
    head, rows = "", []
    for n in range(count):
        said = {"event": "tier", "run_id": "ada", "video_id": None, "blob_id": n, "user_id": f"user{n}"}
        event = {"id": n + 1, "at": queue.NOON, **said, "detail": {"was": "free", "n": n}}
        at = queue.NOON.isoformat(timespec="microseconds")
        whole = json.dumps({**event, "at": at}, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(f"{head}{whole}".encode()).hexdigest()
        rows.append({**event, "previous": head, "digest": digest})
        head = digest
    put(engine, "audit_events", *rows)
    put(engine, "deployment", {"id": "d", "created_at": queue.NOON, "audit_events": count, "audit_head": head})
    return head


def test_records_from_before_seals_are_chained_again_with_an_event(older: Older) -> None:
    engine = older("0016")
    old_head = recorded_before_seals(engine)
    upgrade(engine)
    with reading(engine) as session:
        assert verify(session) == 6
        last, *rest = events(session)
        assert (last.event.event, last.event.detail) == ("rechain", {"events": 5, "old_head": old_head})
        assert [item.event.user_id for item in rest] == [f"user{n}" for n in reversed(range(5))]
        assert deployment(session).audit_head != old_head
    with transaction(engine, "test") as session:
        assert erase(session, [1, 2], "erased-1", run_id="test") == 2
    with reading(engine) as session:
        assert verify(session) == 7


def test_a_tampered_record_is_not_chained_again(older: Older) -> None:
    engine = older("0016")
    recorded_before_seals(engine)
    trigger = "no_update" if engine.dialect.name == "sqlite" else "append_only ON audit_events"
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TRIGGER audit_events_{trigger}"))
        connection.execute(sa.text("UPDATE audit_events SET event = 'x' WHERE id = 3"))
    with pytest.raises(IntegrityDoubt) as refused:
        upgrade(engine)
    assert marked(refused.value) == snapshot("audit event 3 is not what was written; nothing was changed")


def test_users_whose_ids_were_made_of_names_are_known_by_either(older: Older) -> None:
    made = "gina-example-com-599d34717b71"
    others = ("ann", "6f1c1c1e-8a0e-4b7c-9d51-2f1f6a1f0c11", "x-12345678901", "x-1234567890aB")
    engine = older("0025")
    put(engine, "users", *({"id": user_id} for user_id in (made, *others)))
    upgrade(engine)
    with reading(engine) as session:
        assert [tuple(row) for row in session.execute(sa.select(former_ids))] == [(made, made)]
        assert known_user(session, "gina@example.com") == made


def test_charges_of_many_days_are_rolled_up_after_the_migration_some_in_each_run(older: Older) -> None:
    first, users_of = date(2026, 8, 25), ("", "ann", "bob")
    rows = [
        {"day": first + timedelta(days=n), "service": "r2-storage", "sku": "s", "user_id": user, "tier": user and "pro"}
        | {
            "consumed_quantity": n,
            "consumed_unit": "u",
            "list_nanousd": 7 * n,
            "billed_nanousd": n - 3,
            "estimated": n > 9,
        }
        | {"price_book": "b", "policy_version": 1, "provider": "Cloudflare"}
        for n in range(25)
        for user in users_of
    ]
    engine = older("0035")
    put(engine, "charges", *rows)
    upgrade(engine)
    as_of, left = datetime(2026, 11, 5, 12, tzinfo=UTC), [25, 15, 5, 0]
    for days in left:
        with reading(engine) as session:
            assert len(open_before(session, as_of.date())) == days
            assert mismatches(session) == []
            for month, billed in ((date(2026, 8, 31), 0), (date(2026, 9, 30), 675)):
                of_users = sums(session, "user", month.replace(day=1), month)
                assert sum(total.billed_nanousd for total in of_users) == billed
                assert {total.key: total.tier for total in of_users} == {"": "", "ann": "pro", "bob": "pro"}
            by_day = [(total.key, total.billed_nanousd) for total in sums(session, "day", date.min, date.max)]
            assert by_day == [(f"{first + timedelta(days=n)}", 3 * (n - 3)) for n in range(25)]
        charge(engine, PriceBook(), as_of)
