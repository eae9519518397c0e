"""A page of the newest jobs, or moves of credits, is read from an index, and has every row once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.model.ids import Place, Span
from reelkeeper.model.jobs import IN_FLIGHT, JobState, ListedJob
from reelkeeper.model.money import TransferKind
from reelkeeper.operations.billing import ledger as operation
from reelkeeper.operations.jobs.follow import follow
from reelkeeper.store.billing import ledger, quotas
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.jobs import queue
from reelkeeper.store.tables import jobs, users
from tests.operations.asking import ask, claim, fox, row
from tests.operations.books import DOLLAR, balances, make_user

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def steps_of(engine: sa.Engine, read: Any) -> list[str]:  # noqa: ANN401  any function of a session
    """List the steps in which SQLite, without statistics, carries out what `read` asks."""
    steps = list[str]()

    def explain(_: object, cursor: sa.engine.interfaces.DBAPICursor, sql: str, parameters: Any, *__: object) -> None:  # noqa: ANN401  the driver's own
        cursor.execute("EXPLAIN QUERY PLAN " + sql, parameters)
        steps.extend(str(row[3]) for row in cursor.fetchall())

    with reading(engine) as session:
        sa.event.listen(engine, "before_cursor_execute", explain)
        read(session)
        sa.event.remove(engine, "before_cursor_execute", explain)
    return steps


SPANS = [Span(), Span(NOON, NOON + timedelta(days=1)), Span(place=Place(NOON, "f" * 32))]


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("state", [None, *JobState])
@pytest.mark.parametrize("user_id", [None, "ann"])
def test_jobs_are_read_by_an_index_in_its_order(
    sqlite_engine: sa.Engine, user_id: str | None, state: JobState | None, span: Span
) -> None:
    steps = steps_of(
        sqlite_engine, lambda session: queue.page(session, user_id=user_id, state=state, span=span, limit=5)
    )
    index = "ix_jobs_user (user_id=? AND state=?" if user_id else "ix_jobs_age (state=?"
    assert len([step for step in steps if f"SEARCH jobs USING INDEX {index}" in step]) == (6 if state is None else 1)
    assert not [step for step in steps if step.startswith("SCAN jobs")]


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("kind", [None, *TransferKind])
def test_moves_of_credits_are_read_by_an_index_in_its_order(
    sqlite_engine: sa.Engine, kind: TransferKind | None, span: Span
) -> None:
    steps = steps_of(sqlite_engine, lambda session: ledger.moves(session, "ann", 5, kind=kind, span=span))
    read = [step for step in steps if "ix_transfers_user (user_id=? AND kind=?" in step]
    assert len(read) == (6 if kind is None else 1)
    assert not [step for step in steps if step.startswith("SCAN transfers")]


def test_users_who_were_erased_are_not_walked_through(sqlite_engine: sa.Engine) -> None:
    steps = steps_of(sqlite_engine, lambda session: quotas.uses(session, "ann", 5))
    assert [step for step in steps if "users" in step and "ix_users_present (id>?)" in step]


def test_a_job_is_listed_in_the_state_that_its_route_says(engine: sa.Engine) -> None:
    make_user(engine, "ann", 100 * DOLLAR)
    make_user(engine, "bob", 100 * DOLLAR)
    for number in range(3):
        ask(engine, f"lead {number}", fox(seed=number, shared=True))
        ask(engine, f"join {number}", fox(seed=number, shared=True), user="bob")
    with reading(engine) as session:
        leaders = session.execute(sa.select(jobs.c.id).where(jobs.c.leader_id.is_(None)).order_by(jobs.c.id)).scalars()
        runs, parked, _ = list(leaders)
    claim(engine, runs)
    with transaction(engine, "test") as session:
        session.execute(sa.update(jobs).where(jobs.c.id == parked).values(state=JobState.PARKED))
    with reading(engine) as session:
        every = {job.job_id: job for job in queue.page(session, user_id=None, state=None, span=Span(), limit=9)}
        found = {
            state: [job.job_id for job in queue.page(session, user_id=None, state=state, span=Span(), limit=9)]
            for state in JobState
        }
    assert len(every) == 6
    for job_id, job in every.items():
        told = follow(engine, job_id)
        assert (told.state, told.progress, told.started_at) == (job.state, job.progress, job.started_at)
        assert [state for state, ids in found.items() if job_id in ids] == [told.state]
    assert [len(found[state]) for state in JobState if state in IN_FLIGHT] == [2, 2, 2]


def test_pages_have_each_job_once_although_many_are_as_old(engine: sa.Engine) -> None:
    make_user(engine, "ann", 100 * DOLLAR)
    for number in range(7):
        ask(engine, f"key {number}", fox(seed=number))
    with transaction(engine, "test") as session:
        session.execute(sa.update(jobs).values(created_at=NOON))
        late = session.execute(sa.select(sa.func.min(jobs.c.id))).scalar_one()
        session.execute(sa.update(jobs).where(jobs.c.id == late).values(created_at=NOON + timedelta(hours=1)))
    read, place = list[ListedJob](), None
    with reading(engine) as session:
        while page := queue.page(session, user_id="ann", state=None, span=Span(place=place), limit=3):
            read += page
            place = Place(page[-1].created_at, page[-1].job_id)
        until = queue.page(session, user_id=None, state=None, span=Span(until=NOON + timedelta(hours=1)), limit=9)
        since = queue.page(session, user_id=None, state=None, span=Span(since=NOON + timedelta(hours=1)), limit=9)
    assert len({job.job_id for job in read}) == len(read) == 7
    assert read[0].job_id == late
    assert ([job.job_id for job in since], [job.job_id for job in until]) == ([late], [job.job_id for job in read[1:]])


def test_changes_of_all_moves_sum_to_the_balance(engine: sa.Engine) -> None:
    make_user(engine, "ann", 3 * DOLLAR)
    make_user(engine, "bob", 5 * DOLLAR)
    ask(engine, "made", fox(seed=1))
    with transaction(engine, "test") as session:
        hold_id = str(operation.hold(session, "ann", 700, "own", run_id="test", lasting_seconds=60).hold_id)
        operation.capture(session, hold_id, 500, "own/capture", run_id="test")
        operation.refund(session, hold_id, 200, "back", run_id="test", reason="a bad video")
        freed = str(operation.hold(session, "ann", 900, "freed", run_id="test", lasting_seconds=60).hold_id)
        operation.release(session, freed, "freed/release", run_id="test")
    with reading(engine) as session:
        found = ledger.moves(session, "ann", 50)
        by_kind = [move for kind in TransferKind for move in ledger.moves(session, "ann", 50, kind=kind)]
    assert sorted(found) == sorted(by_kind)
    sums = (sum(move.available_microusd for move in found), sum(move.held_microusd for move in found))
    assert sums == balances(engine, "ann")
    own = {move.kind: move for move in found if move.hold_id == hold_id}
    assert {
        kind: (move.amount_microusd, move.available_microusd, move.held_microusd) for kind, move in own.items()
    } == {
        TransferKind.HOLD: (700, -700, 700),
        TransferKind.CAPTURE: (500, 200, -700),
        TransferKind.REFUND: (200, 200, 0),
    }
    assert own[TransferKind.REFUND].reason == "a bad video"
    of_jobs = [move for move in found if move.job_id]
    assert [row(engine, str(move.job_id)).hold_id for move in of_jobs] == [move.hold_id for move in of_jobs] != []


def test_users_are_listed_without_those_being_erased(engine: sa.Engine) -> None:
    for user_id in ("cyd", "ann", "bob"):
        make_user(engine, user_id)
    with transaction(engine, "test") as session:
        session.execute(sa.update(users).where(users.c.id == "bob").values(erasing_at=NOON, pseudonym="erased-1"))
    with reading(engine) as session:
        assert [use.user_id for use in quotas.uses(session, "", 5)] == ["ann", "cyd"]
        assert [use.user_id for use in quotas.uses(session, "ann", 5)] == ["cyd"]
