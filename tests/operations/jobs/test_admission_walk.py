"""Random actions of users and workers: held credits belong to active work, and everything adds up."""

import random
import secrets
from itertools import takewhile

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.errors import LeaseLost
from reelkeeper.model import VideoState
from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.model.money import HoldState, ReservationState
from reelkeeper.model.requests import Cached, Declined, Joined, Queued
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs.admit import quoted
from reelkeeper.operations.jobs.settle import Attempt, cancel, fail, succeed
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import cache_entries, credit_holds, jobs, reservations, videos
from reelkeeper.store.videos import cache
from tests.operations.asking import ask, claim, fox, make
from tests.operations.books import assert_books_balance, assert_bytes_add_up, make_user
from tests.operations.jobs.test_quote import quoted_verdict, verdict
from tests.policies import put_in_force
from tests.tiers import tiers

USERS = ("ann", "ben", "cat")
STEPS = 100
QUOTA = tiers(free={"quota_bytes": 40_000_000})  # five or six jobs at once


def ids(session: Session, *states: JobState) -> list[str]:
    chosen = sa.select(jobs.c.id).where(jobs.c.state.in_(states), jobs.c.leader_id.is_(None)).order_by(jobs.c.id)
    return list(session.execute(chosen).scalars())


def check(session: Session) -> None:
    """At any moment between two steps."""
    assert_books_balance(session)
    assert_bytes_add_up(session)
    waiting = sa.select(jobs.c.hold_id).where(jobs.c.state.in_(IN_FLIGHT), jobs.c.hold_id.is_not(None))
    held = sa.select(credit_holds.c.id).where(credit_holds.c.state == HoldState.OPEN)
    assert set(session.execute(held).scalars()) == set(session.execute(waiting).scalars())
    leading = sa.select(jobs.c.reservation_id).where(jobs.c.state.in_(IN_FLIGHT), jobs.c.leader_id.is_(None))
    promised = sa.select(reservations.c.id).where(reservations.c.state == ReservationState.OPEN)
    assert set(session.execute(promised).scalars()) == set(session.execute(leading).scalars())
    leader = jobs.alias()
    lost = (
        sa.select(jobs.c.id)
        .join(leader, leader.c.id == jobs.c.leader_id)
        .where(jobs.c.state.in_(IN_FLIGHT), sa.or_(leader.c.state.not_in(IN_FLIGHT), leader.c.leader_id.is_not(None)))
    )
    assert not session.execute(lost).all()  # who follows, follows somebody who leads
    dead = (sa.select(cache_entries.c.key).join(videos, videos.c.id == cache_entries.c.video_id)).where(
        videos.c.state != VideoState.LIVE
    )
    assert not session.execute(dead).all()


@pytest.mark.long
def test_a_walk_through_everything_that_can_happen_keeps_every_promise(engine: sa.Engine) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    chance, seen = random.Random(seed), set[str]()
    for user in USERS:
        make_user(engine, user, 250_000)
    wanted = {Queued.__name__, Joined.__name__, Cached.__name__, "made"}
    for number in takewhile(lambda number: number < STEPS or not seen >= wanted, range(20 * STEPS)):
        put_in_force(engine, admission=AdmissionPolicy(hit_charge_percent=chance.choice([0, 0, 30])), tiers=QUOTA)
        with reading(engine) as session:
            queued, running = ids(session, JobState.QUEUED), ids(session, JobState.RUNNING)
        match chance.choice(["ask"] * 5 + ["claim"] * 3 + ["work"] * 4 + ["cancel", "retire"]):
            case "ask":
                request = fox(seed=chance.randrange(6), shared=chance.random() < 0.7)
                user = chance.choice(USERS)
                told = quoted(engine, request, user_id=user)
                answer = ask(engine, f"k{number}", request, user=user)
                assert verdict(answer) == quoted_verdict(told)
                seen.add(answer.code if isinstance(answer, Declined) else type(answer).__name__)
            case "claim" if queued:
                claim(engine, chance.choice(queued))
            case "work" if running:
                seen.add(work(engine, chance, chance.choice(running)))
            case "cancel" if queued or running:
                cancel(engine, chance.choice(queued + running), run_id="w")
            case "retire":
                retire_one(engine, chance)
        with reading(engine) as session:
            check(session)
    assert seen >= wanted, seen
    assert accounts.recount(engine) == []


def work(engine: sa.Engine, chance: random.Random, job: str) -> str:
    """End a job as some worker does, or as one that lost it would like to."""
    token = claim(engine, job)
    match chance.choice(["made", "made", "made", "broken", "late"]):
        case "made":
            make(engine, job, 1_000)
            succeed(engine, Attempt(job, token), run_id="w")
            return "made"
        case "broken":
            fail(engine, Attempt(job, token), "broken", run_id="w")
            return "broken"
    claim(engine, job)
    with pytest.raises(LeaseLost):
        fail(engine, Attempt(job, token), "late", run_id="w")
    return "late"


def retire_one(engine: sa.Engine, chance: random.Random) -> None:
    """Let a video go as `retire` does: state, bytes and entry in one transaction."""
    with transaction(engine, "test") as session:
        require_permission(session)
        live = sa.select(videos.c.id).where(videos.c.state == VideoState.LIVE).order_by(videos.c.id)
        if found := list(session.execute(live).scalars()):
            row = chance.choice(found)
            with quotas.counted(session, [row]):
                session.execute(sa.update(videos).where(videos.c.id == row).values(state=VideoState.RETIRED))
            cache.drop(session, [row])
