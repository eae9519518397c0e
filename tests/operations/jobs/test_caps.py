"""Caps on concurrent jobs are never exceeded, and jobs behind a capped one go on."""

import random
import time
from collections import Counter
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import JobState
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.jobs import claims, endings
from reelkeeper.store.jobs.slots import CONCURRENCY
from reelkeeper.store.tables import jobs
from tests.children import FORKED
from tests.operations.books import make_user
from tests.operations.queue import enqueue, expire_claims, make_due, row
from tests.policies import put_in_force

_WAVE = 200  # jobs that wait at once, at most: a claim reads all of them
CAPS = {"provider:fal": 5, "model:veo": 3, "tier:free": 6, "user:ann": 2, "user:*": 4}


@pytest.fixture
def ann(sqlite_engine: sa.Engine) -> sa.Engine:
    make_user(sqlite_engine, "ann")
    return sqlite_engine


def cap(engine: sa.Engine, **caps: int) -> None:
    put_in_force(engine, concurrency=policy({name.replace("_", ":"): count for name, count in caps.items()}))


def policy(caps: dict[str, int]) -> ConcurrencyPolicy:
    return ConcurrencyPolicy(caps=tuple(Cap(scope=scope, jobs=count) for scope, count in caps.items()))


def names(engine: sa.Engine, slots: int = 9, worker: str = "w") -> list[str]:
    return [job.id for job in claim(engine, worker, [None] * slots, limit=99)]


@pytest.mark.parametrize("capped", [{"lane": "fal"}, {"model": "veo"}, {"tier": "pro"}])
def test_jobs_behind_any_number_of_capped_ones_continue(ann: sa.Engine, capped: dict[str, str]) -> None:
    ((column, name),) = capped.items()
    cap(ann, **{f"{'provider' if column == 'lane' else column}_{name}": 2})
    enqueue(ann, *(row(f"c{n:03}", **capped) for n in range(250)))  # more than a choice is made from
    enqueue(ann, *(row(f"o{n}", estimate_seconds=9_000.0) for n in range(3)))
    assert names(ann, 4) == ["c000", "c001", "o0", "o1"]
    assert names(ann, 4, "other") == ["o2"]
    assert names(ann) == []


@pytest.mark.parametrize(("of_model", "of_all"), [(2, 5), (5, 2), (2, None)])
def test_a_models_own_cap_counts_and_of_two_the_lower_one(
    ann: sa.Engine, of_model: int | None, of_all: int | None
) -> None:
    book = PriceBook.model_validate(
        {"models": [{"model": "veo", "price": {"base_usd": "0.01"}, "most_at_once": of_model}]}
    )
    put_in_force(ann, book=book, concurrency=policy({"model:veo": of_all, "model:*": 1} if of_all else {}))
    enqueue(ann, *(row(f"j{n}", model="veo") for n in range(9)))
    assert len(names(ann)) == 2


def test_a_place_is_free_when_a_job_has_ended_or_waits_to_be_sent_again(ann: sa.Engine) -> None:
    cap(ann, user_ann=1)
    enqueue(ann, *(row(f"j{n}") for n in range(3)))
    (first,) = claim(ann, "w", [None] * 3, limit=9)
    assert names(ann) == []
    claiming.retry(ann, first, "it broke")
    (second,) = claim(ann, "w", [None] * 3, limit=9)
    with transaction(ann, "test") as session:
        endings.end(session, *second.fence, JobState.SUCCEEDED, cost_microusd=None)
    assert len(names(ann)) == 1


def test_a_job_that_its_provider_has_keeps_its_place_and_is_still_looked_up(ann: sa.Engine) -> None:
    cap(ann, provider_fal=1)
    enqueue(ann, *(row(f"j{n}", lane="fal") for n in range(2)))
    (first,) = claim(ann, "w", [None] * 2, limit=9)
    claiming.wait(ann, claiming.announce(ann, first, "fal"), "it does not answer")
    assert names(ann) == []
    make_due(ann)
    assert names(ann) == ["j0"]
    expire_claims(ann)
    assert names(ann) == ["j0"]


def test_parked_jobs_do_not_hold_up_new_ones_and_are_still_looked_up(ann: sa.Engine) -> None:
    cap(ann, provider_fal=14)
    with transaction(ann, "test") as session:
        controls.write(session, CONCURRENCY, {"limit": 28, "lanes": {"fal": {"limit": 14}, "ltx": {"limit": 14}}})
    for first in ("a", "b"):
        enqueue(ann, *(row(f"{first}{n:02}", lane="fal") for n in range(9)))
        for mine in claim(ann, "w", [None] * 9, limit=99):
            claiming.park(ann, claiming.announce(ann, mine, "fal"), "it does not answer")
    enqueue(ann, *(row(f"new{n:02}", lane="fal") for n in range(20)))
    assert names(ann, 20) == [f"new{n:02}" for n in range(14)]
    make_due(ann)
    assert len([name for name in names(ann, 20, "other") if name.startswith("new")]) == 0


@pytest.mark.parametrize("lanes", [{"fal": 2, "ltx": 1}, {"fal": 2}, {"": 2}])
def test_a_provider_gets_the_places_that_were_tuned_for_it_where_several_share_them(
    ann: sa.Engine, lanes: dict[str, int]
) -> None:
    with transaction(ann, "test") as session:
        kept = {"limit": 9, "lanes": {name: {"limit": limit} for name, limit in lanes.items()}}
        controls.write(session, CONCURRENCY, kept)
    enqueue(ann, *(row(f"{lane}{n}", lane=lane) for n in range(4) for lane in ("fal", "ltx", "new")))
    got = Counter(name[:3] for name in [*names(ann, 7), *names(ann, 5, "other")])
    assert got == ({"fal": 2, "ltx": 1, "new": 4} if len(lanes) > 1 else {"fal": 4, "ltx": 4, "new": 4})


def work(url: str, name: str, jobs_in_all: int) -> Counter[str]:
    """Claim jobs and end them, or let them wait, in any order, until all have ended; return the most that was seen."""
    engine, chance, most = open_engine(url), random.Random(name), Counter[str]()
    held: list[claims.Claim] = []
    while True:
        held += claim(engine, name, [None] * chance.randint(1, 4), limit=100)
        most |= check(engine)
        chance.shuffle(held)
        for job in held[: chance.randint(0, len(held))]:
            held.remove(job)
            if chance.random() < 0.1:
                claiming.hand_back(engine, [job])
                continue
            with transaction(engine, "test.settle") as session:
                assert endings.end(session, *job.fence, JobState.SUCCEEDED, cost_microusd=None) is not None
        if not held:
            time.sleep(0.02)
            with reading(engine) as session:
                done = sa.select(sa.func.count()).where(jobs.c.state == JobState.SUCCEEDED)
                if session.execute(done).scalar_one() == jobs_in_all:
                    break
    engine.dispose()
    return most


def check(engine: sa.Engine) -> Counter[str]:
    """At any moment: no scope has more jobs at once than its cap."""
    counts = Counter[str]()
    with reading(engine) as session:
        running = sa.select(jobs.c.lane, jobs.c.model, jobs.c.tier, jobs.c.user_id)
        for lane, model, tier, user in session.execute(running.where(jobs.c.state == JobState.RUNNING)):
            counts.update([f"provider:{lane}", f"model:{model}", f"tier:{tier}", f"user:{user}"])
    over = {
        scope: count
        for scope, count in counts.items()
        if count > CAPS.get(scope, CAPS["user:*"] if scope[:5] == "user:" else 99)
    }
    assert not over, over
    return counts


def drawn(number: int, chance: random.Random) -> dict[str, Any]:
    """Return a waiting job of some provider, model, tier and user."""
    return row(
        f"j{number}",
        chance.choice(["ann", "ben", "eve"]),
        lane=chance.choice(["fal", "local"]),
        model=chance.choice(["veo", "wan"]),
        tier=chance.choice(["free", "pro"]),
    )


def race(engine: sa.Engine, pool: Executor, *, jobs_in_all: int, workers_in_all: int) -> None:
    """Let workers share a queue of jobs of some providers, models, tiers and users, under caps on all four."""
    chance = random.Random(7)
    for user in ("ann", "ben", "eve"):
        make_user(engine, user)
    put_in_force(engine, concurrency=policy(CAPS))
    url = engine.url.render_as_string(hide_password=False)
    with pool:
        workers = [pool.submit(work, url, f"worker {number}", jobs_in_all) for number in range(workers_in_all)]
        most, asked = Counter[str](), 0
        while not all(worker.done() for worker in workers):
            most |= check(engine)
            with reading(engine) as session:
                is_short = claims.count_states(session).get(JobState.QUEUED, 0) < _WAVE // 2
            if is_short and asked < jobs_in_all:
                enqueue(engine, *(drawn(number, chance) for number in range(asked, min(asked + _WAVE, jobs_in_all))))
                asked += _WAVE
            time.sleep(0.02)
        for worker in workers:
            most |= worker.result()
    reached = {scope for scope, count in most.items() if count == CAPS.get(scope)}
    assert reached, most  # the race came to a cap at all


def test_some_workers_never_pass_a_cap(postgresql_engine: sa.Engine) -> None:
    race(postgresql_engine, ThreadPoolExecutor(2), jobs_in_all=30, workers_in_all=2)


@pytest.mark.long
@pytest.mark.parametrize("jobs_in_all", [500, pytest.param(10_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("backend", ["sqlite_engine", "postgresql_engine"])
def test_eight_workers_never_pass_a_cap(request: pytest.FixtureRequest, backend: str, jobs_in_all: int) -> None:
    race(
        request.getfixturevalue(backend),
        ProcessPoolExecutor(8, mp_context=FORKED),
        jobs_in_all=jobs_in_all,
        workers_in_all=8,
    )
