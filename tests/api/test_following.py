"""Event streams share their reads of the store, and each reports how its job ends."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from reelkeeper.api import following
from reelkeeper.api.following import Following
from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import Joined, Queued
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.follow import Job, follow
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import jobs
from tests.operations.asking import ask, claim, fox, make
from tests.operations.books import DOLLAR, make_user


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.02)


def queued(engine: sa.Engine, key: str, prompt: str = "a fox") -> str:
    answer = ask(engine, key, fox(prompt=prompt), user="bob")
    assert isinstance(answer, Queued | Joined)
    return answer.job_id


def finish(engine: sa.Engine, job_id: str) -> None:
    token = claim(engine, job_id)
    make(engine, job_id)
    settle.succeed(engine, Attempt(job_id, token), run_id="run")


async def states(changes: AsyncIterator[Job | None]) -> list[JobState]:
    return [follower.state async for follower in changes if follower]


def test_all_followers_of_a_job_and_of_one_that_joined_it_are_told_its_end(sqlite_engine: sa.Engine) -> None:
    make_user(sqlite_engine, "bob", 10 * DOLLAR)
    leader, joined = queued(sqlite_engine, "k1"), queued(sqlite_engine, "k2")

    async def act() -> list[list[JobState]]:
        shared = Following(sqlite_engine)
        firsts = [follow(sqlite_engine, job_id) for job_id in (leader, leader, joined)]
        listening = [asyncio.create_task(states(shared.changes(first))) for first in firsts]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(finish, sqlite_engine, leader)
        async with asyncio.timeout(30):
            return await asyncio.gather(*listening)

    for seen in asyncio.run(act()):
        assert (seen[0], seen[-1]) == (JobState.QUEUED, JobState.SUCCEEDED)


def test_a_follower_with_a_stale_state_is_told_the_end(sqlite_engine: sa.Engine) -> None:
    make_user(sqlite_engine, "bob", 10 * DOLLAR)
    job_id, other = queued(sqlite_engine, "k1"), queued(sqlite_engine, "k2", "another")

    async def act() -> list[JobState]:
        shared = Following(sqlite_engine)
        stale = follow(sqlite_engine, job_id)
        staying = asyncio.create_task(states(shared.changes(follow(sqlite_engine, other))))
        first = shared.changes(stale)
        await anext(first)
        await asyncio.to_thread(finish, sqlite_engine, job_id)
        async with asyncio.timeout(30):
            while (seen := await anext(first)) is None or seen.state != JobState.SUCCEEDED:
                continue
            told = await states(shared.changes(stale))  # while `first` still listens
        shared.stop()
        await staying
        return told

    assert asyncio.run(act())[-1] == JobState.SUCCEEDED


def test_no_state_is_kept_after_the_last_follower_has_left(sqlite_engine: sa.Engine) -> None:
    make_user(sqlite_engine, "bob", 10 * DOLLAR)
    job_id = queued(sqlite_engine, "k1")

    async def act() -> Following:
        shared = Following(sqlite_engine)
        listening = asyncio.create_task(states(shared.changes(follow(sqlite_engine, job_id))))
        await asyncio.sleep(0.2)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        return shared

    shared = asyncio.run(act())
    assert (shared._listeners, shared._seen, shared._marks, shared._due) == ({}, {}, {}, set())


def test_a_change_of_progress_is_sent(sqlite_engine: sa.Engine) -> None:
    make_user(sqlite_engine, "bob", 10 * DOLLAR)
    job_id = queued(sqlite_engine, "k1")
    claim(sqlite_engine, job_id)

    def half() -> None:
        with transaction(sqlite_engine, "test") as session:
            session.execute(sa.update(jobs).where(jobs.c.id == job_id).values(progress=0.5))

    async def act() -> float:
        changes = Following(sqlite_engine).changes(follow(sqlite_engine, job_id))
        await anext(changes)
        await asyncio.to_thread(half)
        async with asyncio.timeout(30):
            while True:
                seen = await anext(changes)
                if seen and seen.progress:
                    return seen.progress

    assert asyncio.run(act()) == 0.5
