"""Which jobs a worker may choose from, and which of the sent ones a late answer names."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import JobState, Served, SizeAndAge
from reelkeeper.store import Session
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.jobs import queue, scores
from reelkeeper.store.jobs.claims import Nameless, nameless, waiting_jobs
from reelkeeper.store.jobs.lanes import pending
from reelkeeper.store.tables import jobs, users
from tests.jobs import at, waiting

LATER = datetime(2099, 1, 1, tzinfo=UTC)
RANK = SizeAndAge((("free", 1.0),), 1.0, 4)
FAL = Served(frozenset({"fal"}), None)


@pytest.fixture
def session(sqlite_engine: sa.Engine) -> Iterator[Session]:
    with transaction(sqlite_engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        yield session


def put(session: Session, *rows: dict[str, Any]) -> None:
    for row in rows:
        session.execute(sa.insert(jobs).values(row))


def chosen(session: Session, *tiers: str, served: Served | None = None, **more: Any) -> list[str]:  # noqa: ANN401  those of waiting_jobs
    return sorted(job.id for job in waiting_jobs(session, None, tiers, served=served, **more)[0])


def test_of_a_long_queue_the_shortest_jobs_of_each_tier_are_among_those_to_choose_from(session: Session) -> None:
    oldest = [waiting(f"old {n:03}", at(n)) for n in range(100)]
    long = [waiting(f"long {n:03}", at(200), tier="pro") for n in range(101)]
    short = [waiting(tier, at(300), tier=tier, estimate_seconds=1.0) for tier in ("pro", "free")]
    session.execute(sa.insert(jobs), oldest + long + short)
    assert {"pro", "free", "old 000", "old 099"} < {*chosen(session, "pro", "free")}
    found, rest = waiting_jobs(session, None, ["pro", "free"])
    assert rest == pytest.approx(203 * 150 - 298 - sum(job.estimate_seconds for job in found))


@pytest.mark.parametrize(
    ("more", "left"),
    [
        ({}, ["free", "fal", "other"]),
        ({"served": FAL}, ["fal"]),
        ({"served": Served(frozenset({"fal"}), "local")}, ["free", "fal", "other"]),
        ({"full": ["provider:fal"]}, ["free", "other"]),
        ({"served": FAL._replace(default="fal"), "full": ["provider:fal"]}, []),
        ({"full": ["model:svd"]}, ["other"]),
        ({"taken": ["free"]}, ["fal", "other"]),
        ({"others": [("svd", "fal")]}, ["free", "other"]),
        ({"others": [("svd", "replicate")]}, ["free", "fal", "other"]),
    ],
)
def test_a_worker_chooses_from_jobs_that_it_may_begin_also_by_their_scores(
    session: Session, more: dict[str, Any], left: list[str]
) -> None:
    rows = [waiting("free"), waiting("fal", lane="fal"), waiting("other", lane="replicate", model="veo")]
    over = [waiting(f"over {n}", state=JobState.SUCCEEDED) for n in range(3)]
    put(session, *rows, *over, waiting("sent", lane="fal", provider_key="k"), waiting("later", due_at=LATER))
    assert chosen(session, "free", **more) == sorted(left)
    assert scores.scored(session, RANK) is None
    lines = scores.score(session, RANK)
    assert lines == scores.scored(session, RANK)
    assert lines
    found = scores.firsts(session, scores.Window.of(RANK, lines, 9), **more)
    assert sorted(job.id for job in found) == sorted(left)
    assert [*session.scalars(sa.select(jobs.c.line).where(jobs.c.id.startswith("over")))] == [None] * 3


def test_the_job_that_was_sent_under_a_key_is_found_until_its_provider_has_named_it(session: Session) -> None:
    put(session, waiting("1", provider_key="k1", lane="fal"), waiting("2", provider_key="k2", model="veo"))
    assert nameless(session, "k1") == Nameless("svd", "fal", 0)
    assert nameless(session, "k2") == Nameless("veo", None, 0)
    session.execute(sa.update(jobs).where(jobs.c.id == "1").values(provider_job_id="p1"))
    assert (nameless(session, "k1"), nameless(session, "k3")) == (None, None)


@pytest.mark.parametrize(
    ("weight", "ahead"),
    [(0.0, ["older", "older and longer"]), (1.0, ["older"]), (2.0, ["older", "later and shorter"])],
)
def test_ahead_of_a_job_are_those_that_wait_and_rank_before_it(
    session: Session, weight: float, ahead: list[str]
) -> None:
    seconds = {"older": 90.0, "older and longer": 400.0, "later and shorter": 20.0, "later": 150.0, "mine": 100.0}
    times = {"older": 0, "older and longer": 1, "later and shorter": 4, "later": 3.5, "mine": 2}
    put(session, *(waiting(name, at(times[name]), estimate_seconds=seconds[name]) for name in seconds))
    running: dict[str, Any] = {"state": JobState.RUNNING, "lease_until": LATER}
    put(session, waiting("runs", at(0), estimate_seconds=30.0, **running), waiting("2", at(0), **running))
    put(session, waiting("follows", at(0), leader_id="older"), waiting("over", at(0), state=JobState.SUCCEEDED))
    mine = queue.find(session, "mine")
    assert mine
    found = queue.waiting(session, mine, weight)
    assert found == queue.Waiting(len(ahead), sum(seconds[name] for name in ahead), 2, 90.0, 5)
    steps = queue.steps(session, weight, 60.0)
    ranks = {name: int((at(times[name]).timestamp() + weight * seconds[name]) // 60) for name in seconds}
    assert steps == [
        (step, [*ranks.values()].count(step), sum(seconds[name] for name in ranks if ranks[name] == step))
        for step in sorted({*ranks.values()})
    ]


def test_a_score_is_the_time_of_arrival_to_the_microsecond_and_the_size(session: Session) -> None:
    arrived = at(0) + timedelta(microseconds=123_456)
    put(session, waiting("1", arrived), waiting("2", at(1), tier="pro"))
    assert scores.score(session, SizeAndAge((("free", 2.0),), 0.5, 4))
    found = dict(session.execute(sa.select(jobs.c.id, jobs.c.score)).all())
    assert found == pytest.approx({"1": arrived.timestamp() + 300, "2": at(1).timestamp() + 75}, rel=0, abs=1e-5)


def test_jobs_about_to_be_sent_count_for_their_provider_or_the_workers_own(session: Session) -> None:
    running: dict[str, Any] = {"state": JobState.RUNNING, "lease_until": LATER}
    put(session, *(waiting(str(n), lane=lane, **running) for n, lane in enumerate(("fal", "fal", None))))
    put(session, waiting("sent", lane="fal", provider_key="k", **running), waiting("waits", lane="fal"))
    put(session, waiting("dead", lane="fal", state=JobState.RUNNING, lease_until=at(0)))
    assert pending(session, "local") == {"fal": 2, "local": 1}
    assert pending(session, None) == {"fal": 2}
