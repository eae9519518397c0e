"""Create waiting jobs, as admission leaves them."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model.jobs import IN_FLIGHT, JobState, Served
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core.freeze import why_stopped
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.jobs import breakers, lanes, slots
from reelkeeper.store.tables import controls, jobs
from tests.jobs import count_in_flight, waiting


def row(job_id: str, user_id: str = "ann", **values: object) -> dict[str, Any]:
    """Return the row of a waiting job."""
    request = {"prompt": "a cat walks over a bridge", "seconds": 1, "width": 64, "height": 48, "fps": 8}
    return waiting(job_id, user_id=user_id, model="local", request=request) | values


def enqueue(engine: sa.Engine, *rows: dict[str, Any]) -> None:
    """Let jobs wait; one whose price is more than nothing has credits held for it."""
    with transaction(engine, "test") as session:
        for entry in rows:
            if entry["price_microusd"]:
                entry["hold_id"] = _held(session, entry)
            count_in_flight(session, entry)
            session.execute(sa.insert(jobs).values(entry))


def _held(session: Session, entry: dict[str, Any]) -> str:
    price, key = entry["price_microusd"], f"job/{entry['id']}/hold"
    moved = ledger.hold(session, entry["user_id"], price, key, run_id="test", lasting_seconds=86_400)
    return str(moved.hold_id)


def only(provider: str) -> Served:
    """Return the providers of a worker that has one."""
    return Served(frozenset({provider}), provider)


def find(engine: sa.Engine, job_id: str) -> sa.Row[Any]:
    """Return a job as it stands."""
    with reading(engine) as session:
        return session.execute(sa.select(jobs).where(jobs.c.id == job_id)).one()


def sign(engine: sa.Engine) -> None:
    """Let a worker give a sign of life."""
    with transaction(engine, "test") as session:
        slots.give(session)


def expire_claims(engine: sa.Engine) -> None:
    """Let a minute pass in which no worker gave a sign of life."""
    with transaction(engine, "test") as session:
        session.execute(sa.update(jobs).where(jobs.c.state == JobState.RUNNING).values(lease_until=Clock(-1)))


def make_due(engine: sa.Engine, in_seconds: float = -1) -> None:
    """End every pause, or set it to end in some seconds."""
    with transaction(engine, "test") as session:
        session.execute(sa.update(jobs).values(due_at=Clock(in_seconds)))


def assert_pause(engine: sa.Engine, job_id: str, pause: timedelta, since: datetime) -> None:
    """Expect that a job waits so long, from a moment that is between `since` and now."""
    with reading(engine) as session:
        assert since <= find(engine, job_id).due_at - pause <= now(session)


def end_wait(engine: sa.Engine, provider: str, days_ago: float = 0) -> None:
    """Let a provider that is unwell be tried now, or since so many days ago."""
    with transaction(engine, "test") as session:
        state, as_of = breakers.locked(session, provider)
        breakers.write(session, provider, state | {"until": (as_of - timedelta(days=days_ago)).isoformat()})


def end_hold(engine: sa.Engine, provider: str, seconds_ago: float = 1) -> None:
    """Let the time be over for which a provider asked us to wait, since so many seconds."""
    with transaction(engine, "test") as session:
        state, as_of = lanes.locked(session, provider)
        over = (as_of - timedelta(seconds=seconds_ago)).isoformat()
        lanes.write(session, provider, state | {"until": over, "next_at": state["next_at"] and over})


def pass_time(engine: sa.Engine) -> None:
    """Let so much time pass that every claim, pause, hold and wait is over."""
    expire_claims(engine)
    make_due(engine)
    with reading(engine) as session:
        held = list(lanes.known(session))
        unwell = [name for name, state in breakers.known(session).items() if state.get("until")]
    for provider in held:
        end_hold(engine, provider)
    for provider in unwell:
        end_wait(engine, provider)


def stalled(engine: sa.Engine) -> str:
    """Say which jobs are not over, and what holds them up: what vendors take, and why changes are stopped."""
    with reading(engine) as session:
        rows = session.execute(sa.select(jobs).where(jobs.c.state.in_(IN_FLIGHT))).all()
        kept = [tuple(row) for row in session.execute(sa.select(controls.c.name, controls.c.state))]
        stopped = why_stopped(session)
    left = [(row.state, row.attempts, row.line, row.provider_key, row.provider_job_id, row.error) for row in rows]
    return f"{left}, {kept}, {stopped}"
