"""A failing provider gets no new jobs, is reported once, and is tried again, by any worker."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.errors import ProviderBusy
from reelkeeper.model.alerts import AlertState
from reelkeeper.model.jobs import End, JobState
from reelkeeper.operations.health import status
from reelkeeper.operations.jobs import breaker
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs import breaker as rules
from reelkeeper.rules.jobs.breaker import RULE, Phase
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.jobs.claims import Claim
from reelkeeper.store.jobs.endings import ESTIMATES
from reelkeeper.store.tables import alerts, jobs, outbox
from tests.doubles.provider import ProviderDouble
from tests.faults.world import World
from tests.operations.books import make_user
from tests.operations.queue import end_wait, enqueue, expire_claims, find, make_due, only, row
from tests.operations.shop import ask, http, run
from tests.policies import put_in_force

Planned = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@pytest.fixture(autouse=True)
def two_attempts_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_FEWEST_ATTEMPTS", 2)


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database, but for the lock below."""
    return sqlite_engine


@pytest.fixture
def queue(engine: sa.Engine) -> sa.Engine:
    """Six jobs of fal's, and one of another provider's behind them."""
    return fill(engine)


def fill(engine: sa.Engine) -> sa.Engine:
    make_user(engine, "ann")
    enqueue(engine, *(row(f"f{n}", lane="fal") for n in range(6)), row("other", lane="ltx", estimate_seconds=9_000.0))
    return engine


def take(engine: sa.Engine, slots: int = 9, worker: str = "w") -> list[Claim]:
    return claim(engine, worker, [None] * slots, limit=99)


def names(engine: sa.Engine, slots: int = 9) -> list[str]:
    return [job.id for job in take(engine, slots)]


def fail(engine: sa.Engine, *job_ids: str, provider: str = "fal") -> None:
    for job_id in job_ids:
        breaker.note_failed(engine, provider, job_id, "no answer", is_locked=False, run_id="test")


def make(engine: sa.Engine, *job_ids: str) -> None:
    for job_id in job_ids:
        breaker.note_made(engine, "fal", job_id, 1.0, 150.0, run_id="test")


def phase(engine: sa.Engine, provider: str = "fal") -> Phase:
    with reading(engine) as session:
        as_of = now(session)
        found = breaker.resting(session, as_of).get(provider)
        return found.phase(as_of) if found else Phase.CLOSED


def told(engine: sa.Engine) -> list[tuple[str, str]]:
    with reading(engine) as session:
        return [tuple(found) for found in session.execute(sa.select(alerts.c.rule, alerts.c.state))]


@pytest.mark.parametrize("runs_on", [False, True])
def test_a_provider_is_not_slow_whose_jobs_were_followed_by_no_worker_for_hours(
    shop: World, provider: ProviderDouble, *, runs_on: bool
) -> None:
    engine = shop.workspace.engine
    ask(shop, "a cat", "a dog")
    provider.looks = 10_000
    assert run(shop, http(provider), seconds=0.5) == {End.HANDED_OVER: 2}
    with transaction(engine, "test") as session:
        session.execute(sa.update(jobs).values(started_at=Clock(-2 * 3600)))
    provider.looks = 1 + (runs_on and max(job["looks"] for job in provider.jobs.values()) + 1)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 2}
    assert phase(engine, "http") == (Phase.OPEN if runs_on else Phase.CLOSED)
    with reading(engine) as session:
        took = session.execute(sa.select(jobs.c.processing_seconds)).scalars().all()
        learned = controls.remembered(session, [ESTIMATES]).get(ESTIMATES)
    # what nobody saw end is not timed, nor learned from
    assert [seconds and round(seconds, -2) for seconds in took] == [7_200 if runs_on else None] * 2
    assert bool(learned) == runs_on


def test_no_job_is_claimed_for_a_failing_provider_and_others_continue(queue: sa.Engine) -> None:
    fail(queue, "x", "y")
    assert names(queue) == ["other"]
    assert names(queue) == []
    with reading(queue) as session:
        (health,) = status.gather(queue).providers
        assert health.provider == "fal"
        assert health.phase is Phase.OPEN
        assert timedelta(seconds=50) < health.until - now(session) <= timedelta(seconds=60)


def test_a_few_jobs_try_it_and_once_they_are_made_all_others_follow(queue: sa.Engine) -> None:
    fail(queue, "x", "y")
    end_wait(queue, "fal")
    assert sorted(names(queue)) == ["f0", "f1", "other"]
    assert names(queue) == []
    make(queue, "f0")
    assert (phase(queue), names(queue)) == (Phase.TRIAL, [])
    make(queue, "f1")
    assert (phase(queue), names(queue)) == (Phase.CLOSED, ["f2", "f3", "f4", "f5"])
    assert told(queue) == [(RULE, AlertState.RESOLVED)]


def test_a_failed_trial_opens_the_breaker_for_longer_with_one_alert(queue: sa.Engine) -> None:
    fail(queue, "x", "y")
    for _ in range(3):
        end_wait(queue, "fal")
        (first, *_) = [job.id for job in take(queue) if job.id != "other"]
        fail(queue, first)
        assert phase(queue) is Phase.OPEN
    with reading(queue) as session:
        found = breaker.resting(session, now(session))["fal"]
        assert found.until is not None
        assert found.until - now(session) > timedelta(seconds=400)
        assert session.execute(sa.select(sa.func.count()).select_from(outbox)).scalar_one() == 1
    assert told(queue) == [(RULE, AlertState.FIRING)]


def test_a_provider_that_no_job_has_tried_for_a_day_is_forgotten_with_its_alert(queue: sa.Engine) -> None:
    fail(queue, "x", "y", provider="gone")
    end_wait(queue, "gone", days_ago=0.9)
    names(queue, 1)
    assert (phase(queue, "gone"), told(queue)) == (Phase.TRIAL, [(RULE, AlertState.FIRING)])
    end_wait(queue, "gone", days_ago=1.1)
    names(queue, 1)
    assert (phase(queue, "gone"), told(queue)) == (Phase.CLOSED, [(RULE, AlertState.RESOLVED)])


def test_a_trial_job_that_says_nothing_gives_its_place_to_another(queue: sa.Engine) -> None:
    fail(queue, "x", "y")
    end_wait(queue, "fal")
    first, *_ = take(queue, 2)
    claiming.retry(queue, first, "busy", busy=ProviderBusy("busy", 600))
    assert [name for name in names(queue) if name != "other"] == ["f2"]


def test_jobs_at_a_provider_are_followed_while_it_gets_no_new_ones(queue: sa.Engine) -> None:
    sent, unsent = (job for job in take(queue, 2))
    claiming.note_sent(queue, claiming.announce(queue, sent, "fal"), "p1")
    fail(queue, "x", "y")
    expire_claims(queue)  # their worker is gone
    assert names(queue, 1) == [sent.id]
    assert names(queue) == ["other"]
    assert find(queue, unsent.id).state == JobState.QUEUED
    end_wait(queue, "fal")
    assert unsent.id in names(queue)


def test_a_job_that_was_claimed_before_is_not_sent_any_more_and_it_is_no_attempt(queue: sa.Engine) -> None:
    first, second = take(queue, 2)
    claiming.announce(queue, second, "fal")
    fail(queue, "x", "y")
    with pytest.raises(ProviderBusy) as busy:
        claiming.announce(queue, first, "fal")
    assert 50 < busy.value.seconds <= 60
    assert find(queue, first.id).provider_key is None
    claiming.announce(queue, second._replace(provider_key="k"), "fal")  # it may have it: it is sent under its key


def test_a_worker_leaves_jobs_alone_that_wait_for_another_provider_of_their_model(queue: sa.Engine) -> None:
    price = {"base_usd": "1"}
    sold = {"model": "veo", "provider": "fal", "price": price, "offers": [{"provider": "http", "price": price}]}
    put_in_force(queue, book=PriceBook.model_validate({"models": [sold], "unpriced": "sell"}))
    enqueue(queue, *(row(name, lane=name, model="veo", estimate_seconds=1.0) for name in ("fal", "http", "local")))
    taken = {job.id for job in claim(queue, "w", [None] * 9, limit=99, served=only("http"))}
    assert taken & {"fal", "http", "local"} == {"http", "local"}  # `local` was admitted when no provider was named
    assert names(queue) == ["fal"]


def test_a_worker_of_an_unwell_provider_begins_no_job_without_a_provider(queue: sa.Engine) -> None:
    fail(queue, "x", "y", provider="http")
    assert claim(queue, "w", [None] * 9, limit=99, served=only("http")) == []
    end_wait(queue, "http")
    assert len(claim(queue, "w", [None] * 9, limit=99, served=only("http"))) == 2
    assert claim(queue, "w", [None] * 9, limit=99, served=only("http")) == []
    assert len(names(queue)) == 5  # another's are


@pytest.mark.parametrize(
    ("answer", "opens"),
    [
        ((500, {"error": "oops"}), True),  # in doubt
        ((429, None, {"Retry-After": "9"}), False),
        ((400, {"error": {"code": "content_policy_violation", "message": "no"}}), False),
        ((422, {"error": "a bad field"}), False),
    ],
)
def test_a_refused_job_says_nothing_about_a_providers_health(
    shop: World, provider: ProviderDouble, answer: Planned, opens: bool
) -> None:
    ask(shop, "a cat", "a dog", "a bird")
    provider.queue = [answer, answer, answer]
    run(shop, http(provider), slots=1)
    assert phase(shop.workspace.engine, "http") is (Phase.OPEN if opens else Phase.CLOSED)


def test_a_provider_that_is_not_reached_is_tried_until_it_answers(shop: World, provider: ProviderDouble) -> None:
    engine = shop.workspace.engine
    ask(shop, "a cat", "a dog")
    gone = http(provider)
    gone._provider._calls.url = "http://127.0.0.1:1"  # type: ignore[attr-defined]  # nobody listens there
    assert run(shop, gone) == {End.RETRIED: 2}
    make_due(engine)
    assert run(shop, http(provider)) == {}
    end_wait(engine, "http")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 2}
    assert (phase(engine, "http"), len(provider.submitted)) == (Phase.CLOSED, 2)


def test_a_video_that_came_far_too_late_counts_and_a_job_in_doubt_counts_once(
    shop: World, provider: ProviderDouble
) -> None:
    engine = shop.workspace.engine
    ask(shop, "a cat")
    provider.is_down = True
    for _ in range(3):  # looked up again and again
        assert run(shop, http(provider)) == {End.PARKED: 1}
        make_due(engine)
    assert phase(engine, "http") is Phase.CLOSED
    breaker.note_made(engine, "http", "j", 1_000.0, 10.0, run_id="test")
    assert phase(engine, "http") is Phase.OPEN


def test_the_same_on_postgresql(postgresql_engine: sa.Engine) -> None:
    queue = fill(postgresql_engine)
    fail(queue, "x", "y")
    assert names(queue) == ["other"]
    end_wait(queue, "fal")
    assert sorted(names(queue)) == ["f0", "f1"]
    make(queue, "f0", "f1")
    assert names(queue) == ["f2", "f3", "f4", "f5"]
