"""The order of the queue: short and paid first, nobody starves, nobody fills it, and every place can be explained."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reelkeeper.model.jobs import WaitingJob
from reelkeeper.rules.jobs.dispatch import DispatchPolicy, RankedQueue, class_bounds, explain, first, order

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
TIERS = ("free", "premium", "pro", None, "gold")


def job(
    name: str, *, minutes: float = 0, seconds: float = 200, tier: str | None = "free", user: str = "", model: str = ""
) -> WaitingJob:
    return WaitingJob(name, user or name, tier, NOON + timedelta(minutes=minutes), seconds, model)


def ids(jobs: list[WaitingJob]) -> list[str]:
    return [waiting_job.id for waiting_job in jobs]


queues = st.lists(
    st.builds(
        WaitingJob,
        id=st.integers(0, 10**6).map(str),
        user_id=st.sampled_from("abcdef"),
        tier=st.sampled_from(TIERS),
        submitted_at=st.integers(0, 10**5).map(lambda seconds: NOON - timedelta(seconds=seconds)),
        estimate_seconds=st.floats(0, 10**6),
        model=st.sampled_from("xyz"),
        prompt_characters=st.integers(0, 10**6),
    ),
    max_size=40,
    unique_by=lambda waiting_job: waiting_job.id,
)
policies = st.builds(
    DispatchPolicy,
    rule=st.sampled_from(["levels", "seed", "fifo"]),
    size_classes=st.integers(1, 20),
    oldest_share=st.floats(0, 1),
    user_burst=st.integers(1, 9),
)


@given(queues, policies, st.randoms(use_true_random=False))
def test_the_order_holds_every_job_once_however_they_come(
    jobs: list[WaitingJob], policy: DispatchPolicy, draw: object
) -> None:
    shuffled = list(jobs)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    ordered = order(jobs, policy, NOON)
    assert sorted(ids(ordered)) == sorted(ids(jobs))
    assert ordered == order(shuffled, policy, NOON)


@given(queues, policies, st.floats(0, 10**4))
def test_what_a_free_slot_takes_is_the_head_of_the_order(
    jobs: list[WaitingJob], policy: DispatchPolicy, credit: float
) -> None:
    if jobs:
        assert first(jobs, policy, NOON, credit).job == order(jobs, policy, NOON, credit)[0]


@given(queues, policies, st.floats(0, 10**4), st.sampled_from(["x", "y", None]), st.booleans())
def test_slots_that_are_filled_together_take_what_they_would_take_one_by_one(
    jobs: list[WaitingJob], policy: DispatchPolicy, credit: float, warm: str | None, bounded: bool
) -> None:
    if bounded:
        policy = policy.model_copy(update={"class_bounds_seconds": (100.0, 1_000.0, 10_000.0)})
    line, left = RankedQueue(jobs, policy, NOON), list(jobs)
    while left:
        choice = line.first(credit, warm)
        assert choice == first(left, policy, NOON, credit, warm)
        credit = choice.credit_seconds
        left.remove(choice.job)
        line.start(choice.job)


@given(queues.filter(bool), policies)
def test_every_place_can_be_explained(jobs: list[WaitingJob], policy: DispatchPolicy) -> None:
    for waiting_job in jobs:
        assert all(term.sentence for term in explain(waiting_job, jobs, policy, NOON))


def test_short_jobs_go_before_long_ones_and_older_ones_first_within_a_class() -> None:
    waiting = [job("long", seconds=900), job("new", seconds=130, minutes=2), job("short", seconds=131, minutes=1)]
    policy = DispatchPolicy(class_bounds_seconds=(150, 300))
    assert ids(order(waiting, policy, NOON)) == ["short", "new", "long"]


@pytest.mark.parametrize(("tier", "levels"), [("free", 0), ("premium", 2), ("pro", 4), (None, 0), ("gold", 0)])
def test_a_paid_tier_moves_up_and_an_unknown_one_waits_as_free(tier: str | None, levels: int) -> None:
    policy, jobs = DispatchPolicy(), [job("a", tier=tier)]
    (shift,) = (term.value for term in explain(jobs[0], jobs, policy, NOON) if term.name == "tier")
    assert shift == -levels


def test_one_users_backlog_does_not_fill_the_queue() -> None:
    flood = [job(f"f{n:02}", minutes=n / 10, user="heavy") for n in range(40)]
    late = [job("late", minutes=10, user="other")]
    policy = DispatchPolicy(user_burst=8, oldest_share=0)
    assert ids(order([*flood, *late], policy, NOON)).index("late") == 8


def test_the_oldest_job_is_never_passed_over_for_ever() -> None:
    old, policy, credit = job("old", seconds=5000), DispatchPolicy(class_bounds_seconds=(150,)), 0.0
    for passed in range(200):
        waiting = [old, job("x", seconds=100, tier="pro", minutes=passed)]
        chosen, credit = first(waiting, policy, NOON + timedelta(minutes=passed), credit)
        if chosen == old:
            break
    assert passed == math.ceil(5000 / (100 * policy.oldest_share))


def test_a_slot_keeps_its_model_within_the_window() -> None:
    best, warm = job("best", model="x"), job("warm", model="y", minutes=19)
    late = job("late", model="y", minutes=21)
    policy = DispatchPolicy(affinity_seconds=1200)
    assert first([best, warm], policy, NOON, 0, "y").job == warm
    assert first([best, late], policy, NOON, 0, "y").job == best
    assert first([best, warm], policy, NOON, 0, "z").job == best


def test_a_long_prompt_buys_no_more_than_its_cap_under_the_seeds_rule() -> None:
    talker = job("talker")._replace(prompt_characters=100_000)
    quiet = job("quiet", minutes=-11)
    assert ids(order([talker, quiet], DispatchPolicy(rule="seed"), NOON)) == ["quiet", "talker"]


def test_under_the_seeds_rule_pro_counts_as_200_minutes_of_waiting() -> None:
    policy = DispatchPolicy(rule="seed")
    pro, free = job("pro", tier="pro"), job("free", minutes=-199)
    assert ids(order([free, pro], policy, NOON)) == ["pro", "free"]
    assert ids(order([free._replace(submitted_at=NOON - timedelta(minutes=201)), pro], policy, NOON)) == ["free", "pro"]


def test_classes_hold_equally_many() -> None:
    assert class_bounds(range(100), 4) == (25, 50, 75)
    assert class_bounds([], 4) == ()
    assert class_bounds([7.0], 3) == (7.0, 7.0)


@pytest.mark.parametrize("wrong", [{"rule": "lifo"}, {"size_classes": 0}, {"oldest_share": 2}, {"user_burst": 0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DispatchPolicy.model_validate(wrong)
