"""The order of the queue: short and paid jobs first, no starvation, no monopoly, and explainable places."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.model.jobs import WaitingJob
from reelkeeper.rules.core.tiers import SHIPPED, Tiers
from reelkeeper.rules.jobs.dispatch import Choice, DispatchPolicy, RankedQueue, Term, explain, order
from tests.tiers import any_tiers

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
TIERS = ("free", "premium", "pro", None, "gold")


def job(
    name: str, *, minutes: float = 0, seconds: float = 200, tier: str | None = "free", user: str = "", model: str = ""
) -> WaitingJob:
    return WaitingJob(name, user or name, tier, NOON + timedelta(minutes=minutes), seconds, model)


def first(
    jobs: list[WaitingJob],
    policy: DispatchPolicy,
    tiers: Tiers,
    as_of: datetime,
    credit_seconds: float = 0.0,
    warm_model: str | None = None,
    *,
    slots: int = 1,
) -> Choice:
    return RankedQueue(jobs, policy, tiers, as_of, slots=slots).first(credit_seconds, warm_model)


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
        ahead=st.just(0),
    ),
    max_size=40,
    unique_by=lambda waiting_job: waiting_job.id,
)
policies = st.builds(
    DispatchPolicy,
    rule=st.sampled_from(["aging", "seed", "fifo"]),
    oldest_patience=st.floats(0, 3),
    user_burst=st.integers(1, 9),
)


@given(queues, policies, st.randoms(use_true_random=False))
def test_the_order_holds_every_job_once_however_they_come(
    jobs: list[WaitingJob], policy: DispatchPolicy, draw: object
) -> None:
    shuffled = list(jobs)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    ordered = order(jobs, policy, SHIPPED, NOON)
    assert sorted(ids(ordered)) == sorted(ids(jobs))
    assert ordered == order(shuffled, policy, SHIPPED, NOON)


@given(queues, policies, st.floats(0, 10**4))
def test_a_free_slot_takes_the_head_of_the_order(jobs: list[WaitingJob], policy: DispatchPolicy, credit: float) -> None:
    if jobs:
        assert first(jobs, policy, SHIPPED, NOON, credit).job == order(jobs, policy, SHIPPED, NOON, credit)[0]


@given(queues, policies, st.floats(0, 10**4), st.sampled_from(["x", "y", None]))
def test_slots_that_are_filled_together_take_what_they_would_take_one_by_one(
    jobs: list[WaitingJob], policy: DispatchPolicy, credit: float, warm: str | None
) -> None:
    line, left = RankedQueue(jobs, policy, SHIPPED, NOON), list(jobs)
    while left:
        choice = line.first(credit, warm)
        assert choice == first(left, policy, SHIPPED, NOON, credit, warm)
        credit = choice.credit_seconds
        left.remove(choice.job)
        line.start(choice.job)


@given(queues, policies, st.sampled_from(["x", "y", None]), st.integers(1, 9))
def test_a_continued_queue_chooses_like_a_new_one(
    jobs: list[WaitingJob], policy: DispatchPolicy, warm: str | None, together: int
) -> None:
    coming = sorted(jobs, key=lambda waiting_job: (waiting_job.submitted_at, waiting_job.id))
    line, left, credit = RankedQueue([], policy, SHIPPED, NOON - timedelta(days=2)), list[WaitingJob](), 0.0
    for start in range(0, len(coming), together):
        come = coming[start : start + together]
        left += come
        line.go_on(as_of := come[-1].submitted_at, come)
        for _ in range(1 + together // 2):
            choice = line.first(credit, warm)
            assert choice.job == first(left, policy, SHIPPED, as_of, credit, warm).job
            credit = choice.credit_seconds
            left.remove(choice.job)
            line.start(choice.job)
            line.go_on(as_of := as_of + timedelta(seconds=50))
            if not left:
                break
    assert len(line) == len(left)


@given(any_tiers(), st.data(), st.sampled_from(["aging", "seed"]))
def test_the_job_of_the_better_placed_tier_goes_first_of_two_equal_jobs(
    tiers: Tiers, data: st.DataObject, rule: str
) -> None:
    """Whatever tiers there are; a job of none of them waits as one whose tier adds nothing."""
    field = {"aging": "queue_weight", "seed": "queue_points"}[rule]
    places = {name: getattr(tier, field) for name, tier in tiers.items()} | {None: int(rule == "aging")}
    names = st.sampled_from([*places])
    lesser, better = sorted((data.draw(names), data.draw(names)), key=lambda name: places[name])
    policy = DispatchPolicy.model_validate({"rule": rule})
    ahead, behind = job("b", tier=better), job("a", tier=lesser)
    first_of_both = order([behind, ahead], policy, tiers, NOON)[0].id
    assert first_of_both == ("b" if places[better] > places[lesser] else "a")  # of equals, by name


@given(queues.filter(bool), policies)
def test_every_place_can_be_explained(jobs: list[WaitingJob], policy: DispatchPolicy) -> None:
    for waiting_job in jobs:
        assert all(term.sentence for term in explain(waiting_job, jobs, policy, SHIPPED, NOON))


def test_a_job_counts_as_later_the_longer_it_takes_and_the_less_so_the_more_its_user_pays() -> None:
    policy = DispatchPolicy(size_weight=10)
    waiting = [
        job("free", seconds=200),  # noon, and 2000 s
        job("free and later", seconds=100, minutes=17),  # 2020 s after noon
        job("free and earlier", seconds=100, minutes=16),  # 1960 s
        job("pro", seconds=300, minutes=7, tier="pro"),  # 420 s and half of 3000 s: 1920 s
        job("premium", seconds=300, tier="premium"),  # two thirds of 3000 s: 2000 s, and behind of the same age by name
    ]
    assert ids(order(waiting, policy, SHIPPED, NOON)) == [
        "pro",
        "free and earlier",
        "free",
        "premium",
        "free and later",
    ]


def test_the_terms_of_a_place_add_up_to_its_rank() -> None:
    policy, as_of = DispatchPolicy(user_burst=2), NOON + timedelta(minutes=30)
    jobs = [job(f"j{n}", minutes=n, seconds=100 + 40 * n, user="a", tier="pro") for n in range(9)]
    jobs += [job(f"k{n}", minutes=n, seconds=333, tier="premium") for n in range(9)]
    sums = {each.id: sum(term.value for term in explain(each, jobs, policy, SHIPPED, as_of)) for each in jobs}
    best = min(jobs, key=lambda each: sums[each.id])
    assert first(jobs, policy, SHIPPED, as_of).job == best
    assert sums["j5"] == pytest.approx(48 * 300 * 3 / 2 - 25 * 60)


def test_ordering_returns_the_jobs_unchanged() -> None:
    jobs = [job(f"j{n}", minutes=n, user="heavy")._replace(ahead=n) for n in range(12)]
    assert sorted(order(jobs, DispatchPolicy(), SHIPPED, NOON)) == sorted(jobs)


def test_each_term_is_a_sentence() -> None:
    jobs = [job("a", seconds=300, tier="pro", user="u"), job("b", minutes=1, seconds=100, user="u")]
    policy = DispatchPolicy(user_burst=1)
    told = [
        str(term)
        for each in jobs
        for term in explain(each, jobs, policy, SHIPPED, NOON + timedelta(minutes=2), slots=4)
    ]
    assert told == snapshot(
        [
            "size: 300 s estimated, each of which counts as 48 s of waiting: 14400 s",
            "tier: pro: its size counts 1 / 2",
            "backlog: job 1 of the user's waiting ones: its size counts once",
            "wait: 120 s, the oldest job of all, next once it has waited 120 s and others have earned its estimate",
            "size: 100 s estimated, each of which counts as 48 s of waiting: 4800 s",
            "tier: free: its size counts in full",
            "backlog: job 2 of the user's waiting ones: its size counts 2 times",
            "wait: 60 s, not the oldest job of all",
        ]
    )


def test_one_users_backlog_does_not_fill_the_queue() -> None:
    flood = [job(f"f{n:02}", minutes=n / 10, seconds=500 if n < 16 else 100, user="heavy") for n in range(40)]
    late = [job("late", minutes=10, seconds=180, user="other")]
    policy = DispatchPolicy(oldest_patience=10**9)
    assert order([*flood, *late], policy, SHIPPED, NOON)[0].id == "late"
    patient = policy.model_copy(update={"user_burst": 40})
    assert order([*flood, *late], patient, SHIPPED, NOON)[0].id == "f16"


def test_jobs_of_a_backlog_that_are_out_of_sight_count_too() -> None:
    seen, policy = job("seen", user="heavy")._replace(ahead=16), DispatchPolicy(oldest_patience=10**9)
    (backlog,) = (term for term in explain(seen, [seen], policy, SHIPPED, NOON) if term.name == "backlog")
    size = 48 * 200
    assert backlog == Term("backlog", 2 * size, snapshot("job 17 of the user's waiting ones: its size counts 3 times"))
    assert first([seen, job("other", seconds=500)], policy, SHIPPED, NOON).job.id == "other"


def test_the_oldest_job_is_never_passed_over_for_ever() -> None:
    old, credit = job("old", seconds=5000), 0.0
    policy = DispatchPolicy()
    for passed in range(300):
        waiting = [old, job("x", seconds=100, tier="pro", minutes=passed)]
        chosen, credit = first(waiting, policy, SHIPPED, NOON + timedelta(minutes=passed), credit)
        if chosen == old:
            break
    earned, waited = math.ceil(5000 / 100), math.ceil(policy.oldest_patience * 5100 / 60)
    assert passed == max(earned, waited)


@pytest.mark.parametrize("slots", [1, 4])
def test_the_oldest_uses_what_it_earned_once_it_has_waited_longer_than_the_queue_takes(slots: int) -> None:
    old, new = job("old", seconds=1000), job("new", seconds=100, minutes=3)
    policy = DispatchPolicy(oldest_patience=2)
    patience = timedelta(seconds=2 * 1100 / slots)
    almost, then = (NOON + patience - timedelta(seconds=1), NOON + patience)
    assert first([old, new], policy, SHIPPED, almost, 1000, slots=slots).job == new
    assert first([old, new], policy, SHIPPED, then, 1000, slots=slots) == (old, 0)
    assert first([old, new], policy, SHIPPED, then, 999, slots=slots) == (new, 1000)  # no more is kept than it takes


def test_a_slot_keeps_its_model_within_the_window() -> None:
    best, warm = job("best", model="x"), job("warm", model="y", minutes=19)
    late = job("late", model="y", minutes=21)
    policy = DispatchPolicy()
    assert first([best, warm], policy, SHIPPED, NOON, 0, "y").job == warm
    assert first([best, late], policy, SHIPPED, NOON, 0, "y").job == best
    assert first([best, warm], policy, SHIPPED, NOON, 0, "z").job == best


def test_a_long_prompt_buys_no_more_than_its_cap_under_the_seeds_rule() -> None:
    talker = job("talker")._replace(prompt_characters=100_000)
    quiet = job("quiet", minutes=-11)
    assert ids(order([talker, quiet], DispatchPolicy(rule="seed"), SHIPPED, NOON)) == ["quiet", "talker"]


def test_under_the_seeds_rule_pro_counts_as_200_minutes_of_waiting() -> None:
    policy = DispatchPolicy(rule="seed")
    pro, free = job("pro", tier="pro"), job("free", minutes=-199)
    assert ids(order([free, pro], policy, SHIPPED, NOON)) == ["pro", "free"]
    assert ids(order([free._replace(submitted_at=NOON - timedelta(minutes=201)), pro], policy, SHIPPED, NOON)) == [
        "free",
        "pro",
    ]


@pytest.mark.parametrize("wrong", [{"rule": "lifo"}, {"oldest_patience": -1}, {"user_burst": 0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DispatchPolicy.model_validate(wrong)
