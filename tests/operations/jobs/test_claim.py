"""A job belongs to one worker at a time, and none is forgotten."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import InsufficientCredits, LeaseLost, NotFound, Refused
from reelkeeper.model import VideoState
from reelkeeper.model.jobs import JobState, WaitingJob
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.jobs import dispatch
from reelkeeper.rules.jobs.dispatch import DispatchPolicy
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.jobs import breakers, claims, scores
from reelkeeper.store.tables import audit_events, controls, jobs, videos
from reelkeeper.store.videos import cache
from tests.databases import until_waiting
from tests.faults.world import World
from tests.jobs import at
from tests.operations.books import DOLLAR, balances, make_user
from tests.operations.queue import enqueue, expire_claims, find, make_due, only, row


@pytest.fixture
def ann(engine: sa.Engine) -> sa.Engine:
    make_user(engine, "ann", DOLLAR)
    return engine


def test_each_job_is_claimed_once(ann: sa.Engine) -> None:
    enqueue(ann, *(row(f"j{n}") for n in range(10)))
    first = claim(ann, "one", [None] * 6, limit=100)
    second = claim(ann, "two", [None] * 6, limit=100)
    assert [len(first), len(second)] == [6, 4]
    assert len({job.id for job in first + second}) == 10
    assert all(job.attempts == 1 and job.lease_token == 1 for job in first + second)
    assert claim(ann, "three", [None], limit=100) == []


def test_jobs_go_in_the_order_of_the_rule(ann: sa.Engine) -> None:
    enqueue(
        ann,
        row("long", estimate_seconds=400.0),
        row("short", estimate_seconds=130.0, created_at=at(1)),
        row("paid", estimate_seconds=300.0, created_at=at(2), tier="pro"),
    )
    assert [job.id for job in claim(ann, "w", [None] * 3, limit=9)] == ["short", "paid", "long"]


@pytest.mark.parametrize(
    ("left_out", "offered"),
    [
        ({"full": {"tier:free"}}, {"of-no-tier", "named"}),
        ({"full": {"user:local", "model:ann", "provider:free"}}, {"of-no-tier", "free", "named"}),
        ({"full": {"provider:fal"}}, {"of-no-tier", "free"}),
        ({"others": {("local", "fal")}}, {"of-no-tier", "free"}),
        ({"others": {("other", "fal")}}, {"of-no-tier", "free", "named"}),
        ({"full": {"tier:free", "model:local"}}, set()),
    ],
)
def test_a_full_scope_leaves_out_its_own_jobs_and_no_others(
    ann: sa.Engine, left_out: dict[str, Any], offered: set[str]
) -> None:
    enqueue(ann, row("of-no-tier", tier=None), row("free", tier="free"), row("named", tier=None, lane="fal"))
    with reading(ann) as session:
        found, _ = claims.waiting_jobs(session, None, ("free",), **left_out)
    assert {job.id for job in found} == offered


def test_a_slot_stays_with_the_model_that_it_has_loaded(ann: sa.Engine) -> None:
    enqueue(ann, row("a", model="other"), row("b", model="loaded", created_at=at(1)))
    assert [job.id for job in claim(ann, "w", ["loaded"], limit=9)] == ["b"]


def test_the_oldest_earns_its_turn_over_claims_of_one_each(ann: sa.Engine) -> None:
    enqueue(
        ann,
        row("old and long", estimate_seconds=300.0),
        *(row(f"short {n}", estimate_seconds=150.0, created_at=at(n + 1)) for n in range(9)),
    )
    policy = DispatchPolicy(oldest_patience=0)
    order = [claim(ann, "w", [None], limit=99, order=policy)[0].id for _ in range(6)]
    assert order.index("old and long") == 2  # two shorter ones have earned 300 s for it


def test_no_more_run_at_once_than_the_limit_says(ann: sa.Engine) -> None:
    enqueue(ann, *(row(f"j{n}") for n in range(5)))
    assert len(claim(ann, "one", [None] * 5, limit=3)) == 3
    assert claim(ann, "two", [None], limit=3) == []
    expire_claims(ann)  # a dead worker's jobs take no slot, and are begun anew
    assert len(claim(ann, "two", [None] * 5, limit=3)) == 3


def test_what_a_vendor_has_is_fetched_although_a_person_allows_no_job(ann: sa.Engine) -> None:
    """Its URL would expire there; one that the vendor may not have could be bought now, and waits."""
    made = row("made", provider="fal", provider_key="made-1", provider_job_id="at-fal")
    enqueue(ann, row("new"), row("unsure", provider="fal", provider_key="unsure-1"), made)
    assert [job.id for job in claim(ann, "one", [None] * 3, limit=0)] == ["made"]
    expire_claims(ann)
    assert claim(ann, "two", [None], limit=0, served=only("runway")) == []
    assert [job.id for job in claim(ann, "two", [None], limit=0, served=only("fal"))] == ["made"]


def test_claims_take_turns_so_that_two_at_once_do_not_pass_the_limit(postgresql_engine: sa.Engine) -> None:
    """SQLite has one writer at a time anyway."""
    make_user(postgresql_engine, "ann", DOLLAR)
    assert claim(postgresql_engine, "w", [None], limit=1) == []  # the first makes the row that they take turns at
    enqueue(postgresql_engine, row("a", model="one"), row("b", model="two"))
    with transaction(postgresql_engine, "test") as session:  # otherwise the one that scores them has locked them
        assert (rank := dispatch.window(DispatchPolicy(), SHIPPED))
        assert scores.score(session, rank)
    with ThreadPoolExecutor(2) as pool, transaction(postgresql_engine, "test") as session:
        session.execute(sa.select(controls).with_for_update())
        asked = [pool.submit(claim, postgresql_engine, "w", [model], limit=1) for model in ("one", "two")]
        until_waiting(postgresql_engine, 2)
        session.commit()
        assert sum(len(claimed.result(timeout=60)) for claimed in asked) == 1


def test_a_job_is_claimed_while_another_request_joins_it(postgresql_engine: sa.Engine) -> None:
    make_user(postgresql_engine, "ann", DOLLAR)
    enqueue(postgresql_engine, row("a"))
    with transaction(postgresql_engine, "test") as session:
        session.execute(sa.insert(jobs).values(row("b", leader_id="a")))
        assert [job.id for job in claim(postgresql_engine, "w", [None], limit=9)] == ["a"]


def test_a_job_of_a_failing_provider_is_moved_while_another_request_joins_it(postgresql_engine: sa.Engine) -> None:
    make_user(postgresql_engine, "ann", DOLLAR)
    enqueue(postgresql_engine, row("a", lane="fal"))
    with transaction(postgresql_engine, "test") as joining, transaction(postgresql_engine, "test") as moving:
        joining.execute(sa.insert(jobs).values(row("b", leader_id="a")))
        assert [job.id for job in breakers.unsent(moving, ["fal"], ["local"], 9)] == ["a"]


def test_a_chosen_job_that_is_no_longer_free_is_not_claimed(ann: sa.Engine) -> None:
    enqueue(ann, *(row(job_id) for job_id in ("cancelled", "another's", "free")))
    settle.cancel(ann, "cancelled", run_id="test")
    with transaction(ann, "test") as session:
        (mine,) = claims.take(session, ["another's"], "another")
    with transaction(ann, "test") as session:
        taken = claims.take(session, ["cancelled", mine.id, "free"], "w")
    assert [job.id for job in taken] == ["free"]
    assert find(ann, "cancelled").state == JobState.CANCELLED


def test_an_announced_job_keeps_its_key(ann: sa.Engine) -> None:
    enqueue(ann, row("j"))
    (dead,) = claim(ann, "dead", [None], limit=1)
    key = claiming.announce(ann, dead, "http").provider_key
    expire_claims(ann)
    (alive,) = claim(ann, "alive", [None], limit=1)
    assert claiming.announce(ann, alive, "http").provider_key == alive.provider_key == key


def test_a_job_that_is_over_stays_so_whatever_its_last_worker_still_says(ann: sa.Engine) -> None:
    enqueue(ann, row("j"))
    (mine,) = claim(ann, "w", [None], limit=1)
    settle.fail(ann, Attempt(*mine.fence), "why", run_id="test")
    assert claiming.renew(ann, [(mine, 0.5)]) == {}
    for late in (
        lambda: claiming.retry(ann, mine, "late"),
        lambda: claiming.park(ann, mine, "late"),
        lambda: claiming.announce(ann, mine, "http"),
    ):
        with pytest.raises(LeaseLost):
            late()
    claiming.hand_back(ann, [mine])
    assert (find(ann, "j").state, find(ann, "j").error) == (JobState.DEAD, "why")


def test_a_dead_workers_job_is_another_s_and_nothing_that_it_still_says_counts(ann: sa.Engine) -> None:
    enqueue(ann, row("j"))
    (dead,) = claim(ann, "dead", [None], limit=1)
    assert claim(ann, "alive", [None], limit=1) == []
    expire_claims(ann)
    (alive,) = claim(ann, "alive", [None], limit=1)
    assert (alive.id, alive.lease_token, alive.attempts) == ("j", 2, 2)
    assert claiming.renew(ann, [(dead, 0.5)]) == {}
    for late in (
        lambda: claiming.announce(ann, dead, "http"),
        lambda: claiming.note_sent(ann, dead, "p1"),
        lambda: claiming.retry(ann, dead, "late"),
        lambda: claiming.park(ann, dead, "late"),
    ):
        with pytest.raises(LeaseLost, match=r"'j' \(token 1\)"):
            late()
    claiming.hand_back(ann, [dead])
    with reading(ann) as session:
        assert not claims.current(session, *dead.fence)
        assert claims.current(session, *alive.fence)
    assert find(ann, "j").claimed_by == "alive"
    assert claiming.renew(ann, [(alive, 0.5)]) == {"j": False}


def test_a_renewed_claim_lasts_a_minute_and_tells_that_the_user_wants_it_no_more(ann: sa.Engine) -> None:
    enqueue(ann, row("j"))
    (mine,) = claim(ann, "w", [None], limit=1)
    expire_claims(ann)
    assert claiming.renew(ann, [(mine, 0.25)]) == {"j": False}  # late, and nobody has taken it
    assert claim(ann, "other", [None], limit=9) == []
    with transaction(ann, "test") as session:
        session.execute(sa.update(jobs).values(cancel_asked_at=Clock()))
    assert claiming.renew(ann, [(mine, 0.5)]) == {"j": True}
    assert find(ann, "j").progress == 0.5


def test_a_failed_attempt_waits_longer_each_time_and_is_sent_under_a_new_key(ann: sa.Engine) -> None:
    enqueue(ann, row("j"))
    keys = set()
    for attempt in range(1, 5):
        (mine,) = claim(ann, "w", [None], limit=1)
        mine = claiming.announce(ann, mine, "http")
        keys.add(mine.provider_key)
        assert claiming.announce(ann, mine, "http").provider_key == mine.provider_key
        pause = claiming.retry(ann, mine, "it failed")
        assert 2**attempt <= pause <= 2**attempt * 1.5
        make_due(ann, in_seconds=600)  # a slow machine takes longer than 2 s to ask again
        assert claim(ann, "w", [None], limit=1) == []
        job = find(ann, "j")
        assert (job.state, job.error, job.attempts, job.provider_key) == ("queued", "it failed", attempt, None)
        make_due(ann)
    assert len(keys) == 4


def test_a_job_in_doubt_is_put_aside_and_looked_up_without_a_new_attempt(ann: sa.Engine) -> None:
    enqueue(ann, row("j"))
    (mine,) = claim(ann, "w", [None], limit=1)
    sent = claiming.announce(ann, mine, "http")
    claiming.park(ann, sent, "no answer")
    assert claim(ann, "w", [None], limit=1) == []
    make_due(ann)
    (again,) = claim(ann, "w", [None], limit=1)
    assert again.was_parked
    assert (again.attempts, again.provider_key) == (1, sent.provider_key)
    claiming.hand_back(ann, [again])
    assert find(ann, "j").state == JobState.PARKED


def test_jobs_that_were_not_begun_are_handed_back_without_an_attempt(ann: sa.Engine) -> None:
    enqueue(ann, row("j"))
    claiming.hand_back(ann, claim(ann, "w", [None], limit=1))
    (again,) = claim(ann, "other", [None], limit=1)
    assert again.attempts == 1


def test_no_job_is_claimed_during_a_freeze(ann: sa.Engine) -> None:
    enqueue(ann, row("j"))
    freeze(ann, by="test", reason="an alarm")
    assert claim(ann, "w", [None], limit=1) == []


@pytest.mark.parametrize("order", [None, DispatchPolicy(rule="seed")], ids=["by stored scores", "by the whole queue"])
def test_followers_and_jobs_that_are_not_due_wait(ann: sa.Engine, order: DispatchPolicy | None) -> None:
    enqueue(ann, row("leader"))
    enqueue(ann, row("follower", leader_id="leader"), row("later", due_at=at(10**7)))
    assert [job.id for job in claim(ann, "w", [None] * 3, limit=9, order=order)] == ["leader"]


@pytest.mark.parametrize("order", [None, DispatchPolicy(rule="seed")], ids=["by stored scores", "by the whole queue"])
def test_jobs_that_another_provider_has_keep_no_new_one_waiting(ann: sa.Engine, order: DispatchPolicy | None) -> None:
    """As after a change of the vendor, while earlier jobs are at the former one."""
    sent = (row(f"s{n}", lane="fal", provider="fal", provider_key=f"s{n}-1") for n in range(3))
    enqueue(ann, *sent, row("new", lane="runway", created_at=at(1)))
    assert [job.id for job in claim(ann, "w", [None] * 2, limit=9, order=order, served=only("runway"))] == ["new"]
    assert len(claim(ann, "w", [None] * 3, limit=9, order=order, served=only("fal"))) == 3


def test_a_redriven_job_is_tried_again_and_its_price_held_again(ann: sa.Engine) -> None:
    price = DOLLAR // 2
    enqueue(ann, {**row("j", price_microusd=0), "state": JobState.DEAD, "attempts": 5, "error": "it broke"})
    with transaction(ann, "test") as session:
        session.execute(sa.update(jobs).values(price_microusd=price))
    claiming.redrive(ann, "j", author="bea")
    assert balances(ann, "ann") == (DOLLAR - price, price)
    (mine,) = claim(ann, "w", [None], limit=1)
    assert mine.attempts == 1
    with pytest.raises(Refused, match="is running"):
        claiming.redrive(ann, "j", author="bea")
    with reading(ann) as session:
        told = session.execute(sa.select(audit_events.c.run_id).where(audit_events.c.event == "redrive"))
        assert told.scalars().all() == ["bea"]


def test_a_dead_job_stays_dead_without_credits_or_while_the_same_is_being_made(ann: sa.Engine) -> None:
    dead = {**row("j"), "state": JobState.DEAD}
    enqueue(ann, dead, row("same", cache_key="j"))
    with pytest.raises(Refused) as refused:
        claiming.redrive(ann, "j", author="bea")
    assert str(refused.value) == snapshot("job 'same' is already making the video of job 'j'; nothing was changed")
    with transaction(ann, "test") as session:
        session.execute(sa.update(jobs).values(price_microusd=2 * DOLLAR, cache_key=jobs.c.id))
    with pytest.raises(InsufficientCredits):
        claiming.redrive(ann, "j", author="bea")
    assert find(ann, "j").state == JobState.DEAD
    with pytest.raises(NotFound):
        claiming.redrive(ann, "none", author="bea")


def test_a_dead_job_stays_dead_whose_user_has_the_video_by_another_request(world: World) -> None:
    engine = world.workspace.engine
    enqueue(engine, {**row("j"), "state": JobState.DEAD})
    world.video("made")
    with transaction(engine, "test") as session:
        cache.insert(session, "j", "made", user_id="ann", cost_microusd=1, ttl_seconds=None)
    with pytest.raises(Refused, match="made"):
        claiming.redrive(engine, "j", author="bea")
    assert find(engine, "j").state == JobState.DEAD
    with transaction(engine, "test") as session:
        session.execute(sa.update(videos).values(state=VideoState.GONE))
    claiming.redrive(engine, "j", author="bea")
    assert find(engine, "j").state == JobState.QUEUED


def _long_queue(engine: sa.Engine) -> list[WaitingJob]:
    """Let 500 jobs wait, more than are looked at: 222 short ones of one user's, and those of many others."""
    chance = Random(5)
    drawn = [
        row(
            f"j{n:04}",
            user_id="ann" if n % 9 < 4 else f"u{n % 20}",
            estimate_seconds=chance.uniform(20, 60) if n % 9 < 4 else chance.expovariate(1 / 300),
            tier=chance.choice(["free", "free", "free", "premium", "pro", None]),
            created_at=at(n * 30 + chance.random()),
        )
        for n in range(500)
    ]
    for user in sorted({entry["user_id"] for entry in drawn} - {"ann"}):
        make_user(engine, user, DOLLAR)
    with transaction(engine, "test") as session:
        session.execute(sa.insert(jobs), drawn)
    told = ("id", "user_id", "tier", "created_at", "estimate_seconds", "model")
    return [WaitingJob(*(entry[name] for name in told)) for entry in drawn]


def test_a_long_queue_is_read_where_the_rule_would_choose(ann: sa.Engine) -> None:
    everything, as_of = _long_queue(ann), at(500 * 30)
    for policy in (DispatchPolicy(), DispatchPolicy(rule="fifo")):
        with reading(ann) as session:
            seen, more = claims.waiting_jobs(session, dispatch.window(policy, SHIPPED), SHIPPED.names)
        assert len(seen) <= 300
        whole = sum(job.estimate_seconds for job in everything)
        assert sum(job.estimate_seconds for job in seen) + more == pytest.approx(whole)
        best, best_of_all = (
            dispatch.RankedQueue(waiting, policy, SHIPPED, as_of, slots=8, more_seconds=rest)
            for waiting, rest in ((seen, more), (everything, 0.0))
        )
        credit = 0.0
        for _ in range(64):
            choice, wanted = best.first(credit), best_of_all.first(credit)
            assert choice.job.id == wanted.job.id
            assert choice.credit_seconds == pytest.approx(wanted.credit_seconds)
            best.start(choice.job)
            best_of_all.start(choice.job)
            credit = choice.credit_seconds


@pytest.mark.long
@pytest.mark.parametrize("policy", [DispatchPolicy(), DispatchPolicy(rule="seed")])
def test_a_long_queue_is_not_read_whole_and_its_best_job_is_found(ann: sa.Engine, policy: DispatchPolicy) -> None:
    make_user(ann, "bea", DOLLAR)
    waiting = [row(f"j{n:04}", estimate_seconds=500.0, created_at=at(n)) for n in range(700)]
    enqueue(
        ann,
        *waiting,
        row("short", user_id="bea", estimate_seconds=120.0, created_at=at(900)),
        row("paid", user_id="bea", estimate_seconds=450.0, created_at=at(901), tier="pro"),
        row("tierless", user_id="bea", estimate_seconds=130.0, created_at=at(902), tier="silver"),
    )
    with reading(ann) as session:
        seen, _ = claims.waiting_jobs(session, dispatch.window(policy, SHIPPED), SHIPPED.names)
    assert len(seen) <= 500
    assert {"j0000", "short", "paid", "tierless"} <= {job.id for job in seen}


@pytest.mark.parametrize(("seconds", "left"), [(50, []), (61, ["j"])])
def test_a_job_is_another_workers_a_minute_after_the_last_sign_of_life_of_its_own(
    ann: sa.Engine, seconds: float, left: list[str]
) -> None:
    enqueue(ann, row("j"))
    (job,) = claim(ann, "one", [None], limit=9)
    with transaction(ann, "test") as session:
        claims.renew(session, [(*job.fence, 0.5)])
        ends = session.execute(sa.select(jobs.c.lease_until)).scalar_one()
        session.execute(sa.update(jobs).values(lease_until=ends - timedelta(seconds=seconds)))
    with reading(ann) as session:
        assert claims.left_behind(session, 9) == left
