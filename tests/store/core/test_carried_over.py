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
from reelkeeper.operations.billing.metering import charge
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.store.billing.charges import open_before, sums
from reelkeeper.store.billing.recount import mismatches
from reelkeeper.store.core import schema
from reelkeeper.store.core.audit import erase, events, verify
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.former_ids import known_user
from reelkeeper.store.core.schema import VERSIONS, deployment, upgrade
from reelkeeper.store.tables import blobs, charges, daily_views, former_ids, job_totals, vendor_jobs, videos
from tests import jobs as queue
from tests.marks import marked

NewUrl = Callable[[str], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, empty_url: NewUrl) -> Iterator[sa.Engine]:
    """Make a store with the schema of 0.1.0."""
    engine = open_engine(empty_url(request.param))
    config = schema._config([VERSIONS])
    with schema._alone(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
    yield engine
    engine.dispose()


def put(engine: sa.Engine, name: str, *rows: dict[str, Any]) -> None:
    """Insert rows into a table as it is there, whatever its columns are called today."""
    with engine.begin() as connection:
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        for row in rows:
            connection.execute(sa.insert(table).values({k: v for k, v in row.items() if k in table.c}))


def test_jobs_in_flight_at_the_migration_of_totals_are_counted(engine: sa.Engine) -> None:
    rows = [queue.waiting("a", price_microusd=5), queue.waiting("b", tier=None, quoted_cost_microusd=7)]
    rows += [queue.dead("c", queue.NOON), queue.waiting("d", leader_id="a", price_microusd=9)]
    put(engine, "users", {"id": "ann", "tier": "pro"})
    put(engine, "jobs", *({"quoted_cost_microusd": None, **row} for row in rows))
    upgrade(engine)
    with reading(engine) as session:
        kept = {row.scope: row.microusd for row in session.execute(sa.select(job_totals))}
        assert kept == {"all:jobs": 12, "model:svd": 12, "tier:free": 5, "user:ann": 12}
        assert mismatches(session) == []


def test_a_video_whose_job_is_known_has_its_model_from_the_beginning(engine: sa.Engine) -> None:
    put(engine, "users", {"id": "ann"})
    put(engine, "videos", *({"id": f"v{n}", "user_id": "ann", "state": "live", "generation": 1} for n in range(3)))
    made = queue.dead("j0", queue.NOON) | {"video_id": "v0", "model": "sketch-1"}
    put(engine, "jobs", made, queue.dead("j1", queue.NOON) | {"video_id": "v0", "leader_id": "j0", "model": "asked"})
    upgrade(engine)
    with reading(engine) as session:
        rows = session.execute(sa.select(videos.c.id, videos.c.model, videos.c.tag).order_by(videos.c.id))
        assert [tuple(row) for row in rows] == [("v0", "sketch-1", None), ("v1", None, None), ("v2", None, None)]


def test_keys_that_reelkeeper_did_not_make_are_the_services(engine: sa.Engine) -> None:
    """A purge may delete an object at a key of ours when no row needs it any more."""
    ours = ("ann/v/g1-0123456789abcdef.mp4", "g12-0123456789abcdef.webm/g1-fedcba9876543210.mp4")
    theirs = (
        "ann/v.mp4",
        "ann/v/g1-0123456789abcdef.mp4.json.old",
        "ann/v/g0-0123456789abcdef.mp4",
        "g1-0123456789abcdef.mp4",
    )
    put(engine, "blobs", *({"generation": 1, "key": key, "state": "live", "size_bytes": 1} for key in (*ours, *theirs)))
    upgrade(engine)
    with reading(engine) as session:
        assert set(session.scalars(sa.select(blobs.c.key).where(blobs.c.is_ours))) == set(ours)
        assert session.scalar(sa.select(sa.func.count()).select_from(blobs)) == len(ours) + len(theirs)


def test_jobs_that_vendors_have_are_known_and_what_is_over_counts_as_it_did(engine: sa.Engine) -> None:
    sent = {"provider": "fal", "price_microusd": 5, "quoted_cost_microusd": None}
    over = {"finished_at": queue.NOON, "cost_microusd": None, **sent}
    put(engine, "users", {"id": "ann"})
    put(
        engine,
        "jobs",
        queue.dead("reported", queue.NOON) | over | {"provider_key": "k1", "cost_microusd": 9, "provider_job_id": "x1"},
        queue.dead("expected", queue.NOON) | over | {"provider_key": "k2", "quoted_cost_microusd": 7},
        queue.dead("priced", queue.NOON) | over | {"provider_key": "k3"},
        queue.waiting("there") | sent | {"provider_key": "k4", "finished_at": None},
        queue.waiting("never sent") | sent | {"provider_key": None},
        queue.waiting("to nobody") | {"provider_key": "k5", "provider": None, "quoted_cost_microusd": None},
    )
    upgrade(engine)
    with reading(engine) as session:
        rows = session.execute(sa.select(vendor_jobs).order_by(vendor_jobs.c.key)).all()
    found = [
        (row.job_id, row.vendor_id, row.counted_microusd, row.reported_microusd, bool(row.ended_at)) for row in rows
    ]
    assert found == [
        ("reported", "x1", 9, 9, True),
        ("expected", None, 7, None, True),
        ("priced", None, 5, None, True),
        ("there", None, None, None, False),
    ]


def test_charges_of_r2_name_cloudflare_after_the_migration(engine: sa.Engine) -> None:
    cost = {"consumed_quantity": 1, "consumed_unit": "u", "list_nanousd": 1, "billed_nanousd": 1, "price_book": "b"}
    cost |= {"day": date(2026, 11, 4), "user_id": "", "estimated": False}
    put(engine, "charges", *({"service": name, "sku": name, **cost} for name in ("r2-storage", "api")))
    upgrade(engine)
    with reading(engine) as session:
        of = {row.service: row.provider for row in session.execute(sa.select(charges))}
        assert of == {"api": "", "r2-storage": "Cloudflare"}


def test_views_are_the_same_once_they_are_kept_by_key(engine: sa.Engine) -> None:
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
    """Write an audit record in the form of 0.1.0; return the head of its chain."""
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


def test_records_from_before_seals_are_chained_again_with_an_event(engine: sa.Engine) -> None:
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


def test_a_tampered_record_is_not_chained_again(engine: sa.Engine) -> None:
    recorded_before_seals(engine)
    trigger = "no_update" if engine.dialect.name == "sqlite" else "append_only ON audit_events"
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TRIGGER audit_events_{trigger}"))
        connection.execute(sa.text("UPDATE audit_events SET event = 'x' WHERE id = 3"))
    with pytest.raises(IntegrityDoubt) as refused:
        upgrade(engine)
    assert marked(refused.value) == snapshot("audit event 3 is not what was written; nothing was changed")


def test_users_whose_ids_were_made_of_names_are_known_by_either(engine: sa.Engine) -> None:
    made = "gina-example-com-599d34717b71"
    others = ("ann", "6f1c1c1e-8a0e-4b7c-9d51-2f1f6a1f0c11", "x-12345678901", "x-1234567890aB")
    put(engine, "users", *({"id": user_id} for user_id in (made, *others)))
    upgrade(engine)
    with reading(engine) as session:
        assert [tuple(row) for row in session.execute(sa.select(former_ids))] == [(made, made)]
        assert known_user(session, "gina@example.com") == made


def test_charges_of_many_days_are_rolled_up_after_the_migration_some_in_each_run(engine: sa.Engine) -> None:
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
