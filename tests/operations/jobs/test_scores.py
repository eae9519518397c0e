"""Claims read the first jobs by their stored scores, and choose as the rule would that sees all."""

from itertools import groupby
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import MOST_TIMES, JobState, WaitingJob
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.jobs import dispatch
from reelkeeper.rules.jobs.dispatch import DispatchPolicy, RankedQueue, weight_of
from reelkeeper.store import Session
from reelkeeper.store.core.controls import remembered
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.jobs import breakers, claims, queue, scores
from reelkeeper.store.jobs.scores import Window
from reelkeeper.store.tables import jobs
from tests.jobs import at, put
from tests.operations.books import DOLLAR, make_user
from tests.operations.queue import enqueue, row
from tests.policies import put_in_force

USERS = ("ann", "bea", "cleo", "dan")
_TOLD = ("id", "user_id", "tier", "created_at", "estimate_seconds", "model")


@pytest.fixture
def people(engine: sa.Engine) -> sa.Engine:
    for user in USERS:
        make_user(engine, user, DOLLAR)
    return engine


def drawn(chance: Random, number: int) -> dict[str, Any]:
    return row(
        f"j{number:04}",
        user_id=chance.choice(USERS[:1] * 4 + USERS),
        estimate_seconds=chance.choice([20.0, 150.0, chance.expovariate(1 / 300)]),
        tier=chance.choice(["free", "free", "premium", "pro", None, "silver"]),
        model=chance.choice(["veo", "svd two"]),
        lane=chance.choice(["fal", "runway", None]),
        created_at=at(number + chance.random()),
    )


def as_told(engine: sa.Engine) -> list[WaitingJob]:
    """Read the whole queue."""
    with reading(engine) as session:
        rows = session.execute(sa.select(*(jobs.c[name] for name in _TOLD)).where(jobs.c.state == JobState.QUEUED))
        return [WaitingJob(*row) for row in rows]


def of_the_rule(engine: sa.Engine, policy: DispatchPolicy, count: int, limit: int) -> list[str]:
    """Let the pure rule choose among all that wait, from the same credit."""
    with reading(engine) as session:
        credit, as_of = (
            remembered(session, [claims.DISPATCH]).get(claims.DISPATCH, {}).get("credit_seconds", 0.0),
            now(session),
        )
    line, chosen = RankedQueue(as_told(engine), policy, SHIPPED, as_of, slots=limit), list[str]()
    while line and len(chosen) < count:
        job, credit = line.first(credit)
        line.start(job)
        chosen.append(job.id)
    return chosen


def of_users(engine: sa.Engine, policy: DispatchPolicy) -> list[list[tuple[float, float]]]:
    """Compute the scores of each user's waiting jobs in Python, the lowest first, each with its stored one."""
    stored, of_each = dict[str, float](), list[list[tuple[float, float]]]()
    with reading(engine) as session:
        for job_id, score in session.execute(sa.select(jobs.c.id, jobs.c.score).where(jobs.c.line.is_not(None))):
            stored[job_id] = score
    waits = sorted(as_told(engine), key=lambda job: (job.user_id, job.submitted_at, job.id))
    for _, theirs in groupby(waits, key=lambda job: job.user_id):
        found = list[tuple[float, float]]()
        for ahead, job in enumerate(theirs):
            tier, times = SHIPPED.get(job.tier), min(1 + ahead // policy.user_burst, MOST_TIMES)
            size = job.estimate_seconds * (weight_of(policy) / (tier.queue_weight if tier else 1)) * times
            found.append((job.submitted_at.timestamp() + size, stored[job.id]))
        of_each.append(sorted(found))
    return of_each


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "policy",
    [DispatchPolicy(user_burst=3), DispatchPolicy(rule="fifo"), DispatchPolicy(user_burst=3, oldest_patience=0)],
)
def test_claims_choose_what_the_rule_chooses_that_sees_all(
    people: sa.Engine, policy: DispatchPolicy, seed: int
) -> None:
    """Jobs arrive and start in turns; no user has more than four bursts waiting, within which scores are exact."""
    chance, number = Random(seed), 0
    put_in_force(people, order=policy)
    for _ in range(10):
        for _ in range(chance.randrange(9)):
            if sum(job.user_id == "ann" for job in as_told(people)) < 12:
                enqueue(people, drawn(chance, number))
                number += 1
        slots = chance.choice([1, 1, 2, 5])
        expected = of_the_rule(people, policy, slots, 99)
        assert [job.id for job in claim(people, "w", [None] * slots, limit=99)] == expected
        with reading(people) as session:
            rank = dispatch.window(policy, SHIPPED)
            assert rank
            assert scores.scored(session, rank) is not None
        for theirs in of_users(people, policy):
            assert all(stored == computed for computed, stored in theirs[:4])
            assert all(stored >= computed for computed, stored in theirs)
    assert accounts.recount(people) == []


def test_more_jobs_than_one_claim_scores_are_chosen_from_as_before_until_all_have_a_score(people: sa.Engine) -> None:
    chance, policy, rows = Random(3), DispatchPolicy(oldest_patience=10**6), list[dict[str, Any]]()
    for number in range(count := scores.BATCH + 300):
        is_short = number >= count - 9  # the last to come are the first to go, and have no score yet
        about = {"user_id": "dan", "estimate_seconds": 1.0} if is_short else {"user_id": USERS[number % 3]}
        rows.append(drawn(chance, number) | about | {"created_at": at(number / 1000)})
    put(people, rows)
    with people.begin() as connection:  # PostgreSQL expects next to no jobs from here on
        connection.execute(sa.delete(jobs))
        connection.execute(sa.text("ANALYZE jobs"))
    put(people, rows)
    for order in (policy, DispatchPolicy(size_weight=5, oldest_patience=10**6)):
        put_in_force(people, order=order)
        rank = dispatch.window(order, SHIPPED)
        assert rank
        for is_scored in (False, True, True):
            expected = of_the_rule(people, order, 5, 99)
            assert [job.id for job in claim(people, "w", [None] * 5, limit=99)] == expected
            with reading(people) as session:
                assert (scores.scored(session, rank) is not None) == is_scored


def test_claims_from_a_long_queue_choose_what_the_rule_chooses_that_sees_all(people: sa.Engine) -> None:
    """Half of the jobs are one user's, and short; all came within ten seconds."""
    chance, rows = Random(11), list[dict[str, Any]]()
    for number in range(500):
        is_short = number % 9 < 4
        about = {"user_id": "ann", "estimate_seconds": chance.uniform(20, 60)} if is_short else {}
        rows.append(drawn(chance, number) | about | {"created_at": at(number / 3000)})
    put(people, rows)
    for _ in range(4):
        expected = of_the_rule(people, DispatchPolicy(), 8, 10**6)
        assert [job.id for job in claim(people, "w", [None] * 8, limit=10**6)] == expected


def test_an_order_for_one_run_changes_no_score(people: sa.Engine) -> None:
    put(people, (drawn(Random(5), number) for number in range(20)))
    claim(people, "w", [None], limit=99)
    with reading(people) as session:
        before = session.execute(sa.select(jobs.c.id, jobs.c.line).order_by(jobs.c.id)).all()
    fifo = DispatchPolicy(rule="fifo")
    expected = of_the_rule(people, fifo, 2, 99)
    taken = [job.id for job in claim(people, "w", [None] * 2, limit=99, order=fifo)]
    assert taken == expected
    with reading(people) as session:
        after = session.execute(sa.select(jobs.c.id, jobs.c.line).order_by(jobs.c.id)).all()
    assert [line for line in before if line.id not in taken] == [line for line in after if line.id not in taken]


def test_a_job_that_moves_to_another_provider_is_claimed_though_its_former_one_is_full(people: sa.Engine) -> None:
    enqueue(people, row("a", lane="fal"))
    rank = dispatch.window(DispatchPolicy(), SHIPPED)
    assert rank

    def lanes(session: Session) -> list[str | None]:
        lines = scores.score(session, rank)
        assert lines
        return [found.lane for found in scores.firsts(session, Window(rank, lines), full={"provider:fal"})]

    with transaction(people, "test") as session:
        assert lanes(session) == []
        job = queue.find(session, "a")
        assert job
        assert breakers.move(session, job, "runway", 1)
        assert lanes(session) == ["runway"]


def test_a_job_that_comes_back_to_the_queue_is_scored_anew(people: sa.Engine) -> None:
    enqueue(people, row("a", lane="fal"), row("b", lane="fal", created_at=at(1)))
    (first,) = claim(people, "w", [None], limit=99)
    with transaction(people, "test") as session:
        claims.hand_back(session, [first])
        session.execute(sa.update(jobs).values(lane="runway"))
    assert [job.id for job in claim(people, "w", [None] * 2, limit=99)] == ["a", "b"]


def test_the_size_of_a_job_counts_more_the_more_of_its_user_wait_before_it_up_to_a_bound(people: sa.Engine) -> None:
    policy, chance = DispatchPolicy(user_burst=3, oldest_patience=10**6), Random(9)
    put(people, (drawn(chance, number) | {"user_id": "bea"} for number in range(3 * (MOST_TIMES + 2))))
    put_in_force(people, order=policy)
    with transaction(people, "test") as session:
        rank = dispatch.window(policy, SHIPPED)
        assert rank
        assert scores.score(session, rank)
        assert session.execute(sa.select(sa.func.max(jobs.c.place))).scalar() == 3 * MOST_TIMES
    for theirs in of_users(people, policy):
        assert all(stored == computed for computed, stored in theirs)
