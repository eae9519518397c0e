"""A user gets another id, or two rows of one user become one: all moves, adds up, and is erased with the new id."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlmodel import SQLModel

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.errors import InputRefused, LeaseLost, NotFound
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.ids import earlier_id
from reelkeeper.model.money import Charge
from reelkeeper.model.requests import Cached, GenerationRequest, Joined, Queued
from reelkeeper.operations.alerts.alerts import observe
from reelkeeper.operations.billing import users
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.videos.hold import hold
from reelkeeper.rules.spend.budget import Budget, BudgetPolicy
from reelkeeper.store.billing import charges as bookings
from reelkeeper.store.billing import ledger, quotas
from reelkeeper.store.core.audit import verify
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.former_ids import known_user
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import (
    alerts,
    blobs,
    charge_months,
    charges,
    entries,
    former_ids,
    holds,
    job_totals,
    jobs,
    operations,
    storage_accounts,
    transfers,
    usage_days,
    videos,
)
from reelkeeper.store.tables import users as rows
from reelkeeper.store.videos.holds import HoldTerms
from reelkeeper.store.videos.imports import import_videos
from reelkeeper.store.videos.videos import is_user
from tests.doubles.provider import ProviderDouble
from tests.faults.world import LONG_AGO, World
from tests.operations.books import DOLLAR
from tests.operations.layouts import act, catalogue, out_of, put, stored
from tests.operations.removals.test_erase import ask, dump, gone
from tests.operations.shop import SMALL, http, run
from tests.operations.shop import ask as ask_shop
from tests.policies import put_in_force

GINA = "gina@example.com"
MADE = earlier_id(GINA)
_KEPT = {("former_ids", "id"), ("audit_events", "user_id")}


def named(world: World, user_id: str) -> set[tuple[str, str]]:
    """List the columns that hold exactly this id, alone or as the subject of a scope or account."""
    forms = {user_id, f"user:{user_id}", f"user/{user_id}", f"held/{user_id}"}
    with reading(world.workspace.engine) as session:
        return {
            (table.name, name)
            for table in SQLModel.metadata.sorted_tables
            for row in session.execute(sa.select(table)).mappings()
            for name, value in row.items()
            if isinstance(value, str) and value in forms
        }


def renamed(world: World, before: str, after: str = GINA, *, apply: bool = True) -> users.Renamed:
    return users.rename(world.workspace.engine, before, after, by="front", apply=apply)


def spend(world: World, *user_ids: str) -> None:
    """Give each a row in each book, with one day in common."""
    usage = {"day": sa.func.current_date(), "metric": "jobs", "source": "store", "quantity": 3}
    with transaction(world.workspace.engine, "test") as session:
        today = now(session).date()
        for day in (today - timedelta(days=3), today):
            paid = [Charge(day, "compute", "jobs", user_id, None, 3, "jobs", 5, 7, "b") for user_id in user_ids]
            bookings.replace(session, [day], paid)
        bookings.roll_up(session, today - timedelta(days=3))
        for user_id in user_ids:
            session.execute(sa.insert(usage_days).values(usage | {"user_id": user_id}))
            total = {"period": "2026-11", "scope": f"user:{user_id}", "microusd": 11, "refusals": 1}
            session.execute(sa.insert(job_totals).values(total))


def test_everything_moves_at_once_and_adds_up(shop: World) -> None:
    engine = shop.workspace.engine
    shop.swapped("v1", run_id="tier-1")
    ask(shop, "a portrait")
    hold(engine, HoldTerms("user", "ann", "a dispute", "front"))
    users.put(engine, GINA, "pro", by="front")
    users.give(engine, GINA, DOLLAR, "first", by="front")
    spend(shop, "ann", GINA)
    put_in_force(engine, budget=BudgetPolicy(budgets=(Budget(scope="user:ann", usd=Decimal(5)),)))
    before = dump(engine)
    foretold = renamed(shop, "ann", apply=False)
    assert dump(engine) == before
    assert renamed(shop, "ann") == foretold._replace(is_done=True)
    assert (foretold.joined, foretold.in_policies) == (True, True)
    assert {"videos", "jobs", "transfers", "credit_holds", "holds", "entries", "storage_accounts"} <= {*foretold.rows}
    assert named(shop, "ann") <= _KEPT
    with reading(engine) as session:
        balance = ledger.balance(session, GINA)
        assert balance.available_microusd + balance.held_microusd == 2 * DOLLAR
        assert [*session.execute(sa.select(usage_days.c.user_id, usage_days.c.quantity))] == [(GINA, 6)]
        for books in (charges, charge_months):
            figures = sa.select(books.c.user_id, books.c.list_nanousd, books.c.billed_nanousd)
            assert [*session.execute(figures)] == [(GINA, 10, 14)]
        total = sa.select(job_totals.c.microusd, job_totals.c.refusals).where(job_totals.c.period == "2026-11")
        assert [*session.execute(total.where(job_totals.c.scope == f"user:{GINA}"))] == [(22, 2)]
        assert session.execute(sa.select(rows.c.tier).where(rows.c.id == GINA)).scalar() == "pro"
        verify(session)
    assert accounts.recount(engine) == []
    assert renamed(shop, "ann").rows == {}  # as after a kill whose answer was lost
    with reading(engine) as session:
        assert known_user(session, "ann") == GINA


@pytest.mark.parametrize("is_made", [False, True])
@pytest.mark.parametrize("joined", [False, True])
def test_a_video_asked_for_before_is_joined_or_given_and_not_bought_again(
    shop: World, provider: ProviderDouble, *, is_made: bool, joined: bool
) -> None:
    engine, request = shop.workspace.engine, GenerationRequest.model_validate({**SMALL, "prompt": "a cat"})
    (job_id,) = ask_shop(shop, "a cat")
    if is_made:
        run(shop, http(provider))
    if joined:
        users.put(engine, GINA, "pro", by="front")
    renamed(shop, "ann")
    again = admit(engine, request, user_id=GINA, client_key="once more")
    assert isinstance(again, Cached if is_made else Joined)
    assert job_id == (again.video_id if isinstance(again, Cached) else again.leader_id)


def test_of_two_users_who_wait_for_the_same_video_each_keeps_the_job(shop: World) -> None:
    engine, request = shop.workspace.engine, GenerationRequest.model_validate({**SMALL, "prompt": "a cat"})
    ask_shop(shop, "a cat")
    users.put(engine, GINA, "pro", by="front")
    users.give(engine, GINA, DOLLAR, "first", by="front")
    theirs = admit(engine, request, user_id=GINA, client_key="k")
    assert isinstance(theirs, Queued)
    renamed(shop, "ann")
    again = admit(engine, request, user_id=GINA, client_key="once more")
    assert isinstance(again, Joined)
    assert again.leader_id == theirs.job_id
    assert accounts.recount(engine) == []


def test_of_two_users_with_accounts_bytes_and_alerts_are_joined_and_others_keep_theirs(shop: World) -> None:
    engine = shop.workspace.engine
    shop.video("v1")
    users.put(engine, GINA, "pro", by="front")
    users.put(engine, "bob", "free", by="front")
    with transaction(engine, "test") as session:
        session.execute(sa.insert(videos).values(id="v2", user_id=GINA, state="live", generation=1))
    shop.video("v2")
    with transaction(engine, "test") as session:
        quotas.ensure(session, ["ann", GINA, "bob"])
    scopes = ("user:ann", f"user:{GINA}", "user:bob", "total")
    found = [
        Finding("budget", scope, Severity.WARNING, scope, "Spend is high.", period="2026-11", level="80")
        for scope in scopes
    ]
    observe(engine, found, rules=(), run_id="run")
    with transaction(engine, "test") as session:  # a video is called like her
        session.execute(sa.insert(videos).values(id="ann", user_id="bob", state="live", generation=1))
        before = {row.id: row for row in session.execute(sa.select(rows))}
    hold(engine, HoldTerms("video", "ann", "a dispute", "front"))
    assert renamed(shop, "ann", apply=False).rows["videos"] == 1
    renamed(shop, "ann")
    with reading(engine) as session:
        assert session.execute(sa.select(holds.c.scope, holds.c.subject)).all() == [("video", "ann")]
        after = {row.id: row for row in session.execute(sa.select(rows))}
        assert after["bob"] == before["bob"]
        assert (after[GINA].tier, after[GINA].created_at) == ("pro", before["ann"].created_at)
        stored = sa.select(storage_accounts.c.used_bytes).where(storage_accounts.c.user_id == GINA)
        assert session.execute(stored).scalar_one() == 2 * shop.clip.stat().st_size
        assert sorted(session.execute(sa.select(alerts.c.scope)).scalars()) == ["total", "user:bob", f"user:{GINA}"]
    assert accounts.recount(engine) == []


def test_an_erasure_leaves_neither_id(shop: World) -> None:
    engine = shop.workspace.engine
    shop.swapped("v1", run_id="tier-1")
    users.put(engine, "bob", "free", by="front")
    hold(engine, HoldTerms("user", "bob", "a dispute with ann, not with ann@home.example", "front"))
    renamed(shop, "ann")
    put(shop.double.endpoint, shop.address.prefix, stored("ann/v9/g1-0123456789abcdef.mp4"))  # left by a killed run
    assert gone(shop, user_id="ann").left == ()
    after = dump(engine)
    assert "ann@home.example" in after
    for told in (GINA, "'ann'", "/ann", "with ann,", "gina"):
        assert told not in after, [line for line in after.splitlines() if told in line]
    assert not any(shop.workspace.bucket.pages_of_folder("ann"))
    assert accounts.recount(engine) == []


def test_a_user_at_work_is_not_renamed(shop: World, lease: Lease) -> None:
    engine = shop.workspace.engine
    shop.video("v1")

    def refused(error: type[Exception] = LeaseLost) -> None:
        before = dump(engine)
        with pytest.raises(error):
            renamed(shop, "ann")
        assert dump(engine) == before

    refused()  # by the lease of this fixture, as of any run
    with LeaseManager(engine) as manager:
        manager.release([lease])
        assert manager.take(["video/of-another", "webhook/1", "flow/deliver_alerts"])
        assert renamed(shop, "ann", apply=False).rows["videos"] == 1
        (taken,) = manager.take(["video/v1"])
        refused()
        manager.release([taken])
    job_id = ask(shop, "a portrait")
    for state, is_refused in (("running", True), ("parked", True), ("queued", False)):
        with transaction(engine, "test") as session:
            session.execute(sa.update(jobs).where(jobs.c.id == job_id).values(state=state))
        if is_refused:
            refused()
    work = {"id": "1", "kind": "swap", "video_id": "v1", "generation": 1, "run_id": "r", "lease_token": 1}
    with transaction(engine, "test") as session:
        session.execute(sa.insert(operations).values(work | {"created_at": LONG_AGO, "updated_at": LONG_AGO}))
    refused()
    with transaction(engine, "test") as session:
        session.execute(sa.delete(operations))
        session.execute(sa.update(rows).values(created_at=LONG_AGO))
    assert renamed(shop, "ann").is_done
    with reading(engine) as session:
        assert session.execute(sa.select(rows.c.created_at).where(rows.c.id == GINA)).scalar_one() == LONG_AGO


def test_an_id_that_is_or_was_anothers_is_not_given(world: World) -> None:
    engine = world.workspace.engine
    for user_id in ("bob", "cyd"):
        users.put(engine, user_id, "free", by="front")
    renamed(world, "ann")
    for before, after, error in (
        ("bob", "ann", InputRefused),
        ("bob", "bob", InputRefused),
        ("bob", " bob", InputRefused),
        ("dan", "eve", NotFound),
    ):
        with pytest.raises(error):
            renamed(world, before, after)
    assert renamed(world, GINA, "ann").is_done  # back again
    with reading(engine) as session:
        assert (known_user(session, "ann"), known_user(session, GINA)) == ("ann", "ann")
    renamed(world, "ann")
    with pytest.raises(InputRefused):
        users.put(engine, "ann", "free", by="front")  # the service gives the id to somebody else
    with transaction(engine, "test") as session:
        session.execute(sa.insert(rows).values(id="ann", tier="free"))  # as an upload under way may
    users.put(engine, "ann", "pro", by="front")
    with reading(engine) as session:
        assert (known_user(session, "ann"), known_user(session, GINA)) == ("ann", GINA)
    assert gone(world, user_id=GINA).left == ()
    assert named(world, "ann") >= {("users", "id"), ("audit_events", "user_id")}


def made_row(world: World, endpoint: Endpoint, *, known: bool = True) -> None:
    """Leave what an earlier version made of Gina's first object."""
    put(endpoint, world.address.prefix, stored(f"{GINA}/my clip.mp4"))
    key = f"{world.address.prefix}{GINA}/my clip.mp4"
    found = world.workspace.bucket.head(key)
    assert found
    video_id = earlier_id("my clip", MADE)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(rows).values(id=MADE))
        if known:
            session.execute(sa.insert(former_ids).values(id=MADE, user_id=MADE))
        session.execute(sa.insert(videos).values(id=video_id, user_id=MADE, state="live", generation=1))
        size = {"size_bytes": 3, "etag": found.etag, "stored_at": found.last_modified, "is_ours": False}
        blob = sa.insert(blobs).values(video_id=video_id, key=key, state="live", generation=1, **size)
        blob_id = session.execute(blob.returning(blobs.c.id)).scalar_one()
        session.execute(sa.update(videos).where(videos.c.id == video_id).values(blob_id=blob_id))


def test_what_an_earlier_version_made_is_found_by_either_name_until_both_are_one(
    world: World, endpoint: Endpoint, lease: Lease
) -> None:
    engine, prefix = world.workspace.engine, world.address.prefix
    made_row(world, endpoint)
    put(endpoint, prefix, stored(f"{GINA}/second.mp4", f"{GINA}/my clip/again.mp4"))
    act(world.workspace, lease)
    old = earlier_id("my clip", MADE)
    assert catalogue(world.workspace) == {f"{GINA}/my clip.mp4": (MADE, old), f"{GINA}/second.mp4": (MADE, "second")}
    assert out_of(world.workspace) == {f"{GINA}/my clip/again.mp4": "another_file"}
    with reading(engine) as session:
        assert (known_user(session, GINA), known_user(session, MADE)) == (MADE, MADE)
    lines = ["id,user_id,created_at,tag", f"my clip,{GINA},,t1", f"second,{MADE},,t2"]
    assert import_videos(engine, lines).lines == 2
    users.put(engine, GINA, "free", by="front")  # the service signs her up: it is the same user
    with transaction(engine, "test") as session:
        assert not is_user(session, GINA)
        session.execute(sa.insert(rows).values(id=GINA))  # as an upload under way may
    with pytest.raises(InputRefused):
        gone(world, user_id=GINA)
    with LeaseManager(engine) as manager:
        manager.release([lease])
    assert renamed(world, MADE).joined
    put(endpoint, prefix, stored(f"{GINA}/third.mp4", f"{MADE}/second/g1-0123456789abcdef.mp4"))
    with LeaseManager(engine) as manager:
        act(world.workspace, manager.take(["again"])[0])
    assert {user for user, _ in catalogue(world.workspace).values()} == {GINA}
    assert out_of(world.workspace)[f"{MADE}/second/g1-0123456789abcdef.mp4"] == "leftover"
    assert gone(world, user_id=MADE).left == ()
    assert GINA not in dump(engine)
    assert MADE not in dump(engine)
    assert catalogue(world.workspace) == {}


def test_nobody_who_takes_such_an_id_later_is_mistaken_for_another(
    world: World, endpoint: Endpoint, lease: Lease
) -> None:
    made_row(world, endpoint, known=False)
    put(endpoint, world.address.prefix, stored(f"{GINA}/second.mp4"))
    act(world.workspace, lease)
    assert catalogue(world.workspace)[f"{GINA}/second.mp4"] == (GINA, "second")
    assert gone(world, user_id=GINA).left == ()
    assert named(world, MADE) >= {("users", "id"), ("videos", "user_id")}
    with reading(world.workspace.engine) as session:
        assert quotas.use_of(session, MADE)


class Undone(Exception):  # noqa: N818  no error: the change was possible, and is taken back
    pass


def attempt(engine: sa.Engine, changes: Sequence[sa.Executable]) -> None:
    with transaction(engine, "test") as session:
        for change in changes:
            session.execute(change)
        raise Undone


def test_rows_of_the_ledger_go_with_a_renamed_user_only_and_only_whole(shop: World) -> None:
    engine = shop.workspace.engine
    users.put(engine, "bob", "free", by="front")
    users.give(engine, "bob", DOLLAR, "first", by="front")
    name_it = sa.insert(former_ids).values(id="ann", user_id="bob")
    own, mine = transfers.c.user_id == "ann", entries.c.account_id == "user/ann"
    for changes, is_allowed in (
        ([sa.update(transfers).where(own).values(user_id="bob")], False),
        ([sa.update(entries).where(mine).values(account_id="user/bob")], False),
        ([name_it, sa.update(transfers).where(own).values(user_id="bob", amount_microusd=1)], False),
        ([name_it, sa.update(transfers).where(own).values(user_id="bob", detail={})], False),
        ([name_it, sa.update(entries).where(mine).values(account_id="user/bob", amount_microusd=1)], False),
        ([name_it, sa.update(entries).where(mine).values(account_id="held/bob")], False),
        ([name_it, sa.delete(entries).where(mine)], False),
        ([name_it, sa.update(transfers).where(own).values(user_id="bob")], True),
        ([name_it, sa.update(entries).where(mine).values(account_id="user/bob")], True),
    ):
        with pytest.raises(Undone if is_allowed else sa.exc.DBAPIError):
            attempt(engine, changes)
