"""The controller of concurrency: bounded, damped, and quick to leave what is too dear or does less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy, Finished, Memory, next_limit

POLICY = ConcurrencyPolicy()


def jobs(n: float, *, slowdown: float = 1.0, cost: float = 8_000, count: int = 30) -> list[Finished]:
    return [Finished(n, 150 * slowdown, 150, cost) for _ in range(count)]


finished = st.lists(
    st.builds(
        Finished,
        concurrency=st.floats(1, 500),
        seconds=st.floats(0.1, 10**6),
        estimate_seconds=st.floats(0.1, 10**5),
        cost_microusd=st.floats(0, 10**9),
        attempts=st.integers(1, 5),
        made=st.booleans(),
        model=st.sampled_from("ab"),
    ),
    max_size=40,
)


@given(st.integers(-5, 10**6), st.lists(finished, max_size=6))
def test_whatever_finishes_the_limit_keeps_its_bounds_and_grows_by_no_more_than_it_may(
    limit: int, windows: list[list[Finished]]
) -> None:
    policy, memory = ConcurrencyPolicy(min_limit=2, max_limit=50), Memory()
    for window in windows:
        before = min(max(limit, 2), 50)
        step = next_limit(limit, window, memory, policy)
        assert 2 <= step.limit <= 50
        assert step.limit <= max(before * policy.growth, before + 2)
        limit, memory = step.limit, step.memory


def test_it_waits_until_enough_jobs_have_finished() -> None:
    step = next_limit(7, jobs(7, count=9), Memory(), POLICY)
    assert (step.limit, step.reason) == (7, "too few jobs finished")


def test_it_grows_while_nothing_slows_down() -> None:
    step = next_limit(8, jobs(8), Memory(), POLICY)
    assert (step.limit, step.reason) == (10, "room to grow")


def test_it_goes_down_where_jobs_hinder_one_another() -> None:
    step = next_limit(40, jobs(40, slowdown=20), Memory(), POLICY)
    assert step.limit < 20


def test_it_aims_below_the_cost_ceiling() -> None:
    step = next_limit(10, jobs(10, slowdown=2, cost=30_000), Memory(), POLICY)
    assert step.limit < 10
    assert step.reason == "over the cost ceiling"


def test_it_leaves_a_limit_at_which_less_was_done_than_at_a_lower_one() -> None:
    memory = Memory()
    for _ in range(6):
        memory = next_limit(15, jobs(16), memory, POLICY).memory
    step = next_limit(20, jobs(20, slowdown=1.6), memory, POLICY)
    assert (step.limit, step.reason) == (16, "less done than at a lower limit")


@pytest.mark.parametrize("wrong", [{"growth": 1}, {"min_limit": 0}, {"cost_setpoint": 1.1}, {"forget": 1}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ConcurrencyPolicy.model_validate(wrong)


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_limit 5 is above max_limit 4"):
        ConcurrencyPolicy(min_limit=5, max_limit=4)


def test_a_limit_that_is_not_used_up_does_not_grow_on_a_guess() -> None:
    step = next_limit(8, jobs(1.5), Memory(), POLICY)
    assert (step.limit, step.reason) == (8, "not used up")
    half_used = next_limit(8, jobs(4.5), Memory(), POLICY)
    assert (half_used.limit, half_used.reason) == (9, "not used up")
    assert next_limit(8, jobs(5), Memory(), POLICY).reason == "room to grow"
