"""The concurrency controller: bounded, damped, and quick to leave limits that cost more or do less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy, Finished, Memory, Running, follow, next_limit

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
def test_the_limit_keeps_its_bounds_and_its_maximum_growth_for_any_jobs(
    limit: int, windows: list[list[Finished]]
) -> None:
    policy, memory = ConcurrencyPolicy(max_limit=50), Memory()
    for window in windows:
        before = min(max(limit, 1), 50)
        step = next_limit(limit, window, memory, policy)
        assert 1 <= step.limit <= 50
        assert step.limit <= max(before * 1.12, before + 2)
        limit, memory = step.limit, step.memory


def test_the_limit_does_not_change_before_enough_jobs_have_finished() -> None:
    step = next_limit(7, jobs(7, count=9), Memory(), POLICY)
    assert (step.limit, step.reason) == (7, "too_few_jobs")


def test_the_limit_grows_while_nothing_slows_down() -> None:
    step = next_limit(8, jobs(8), Memory(), POLICY)
    assert (step.limit, step.reason) == (10, "room_to_grow")


def test_the_limit_falls_if_jobs_slow_each_other_down() -> None:
    step = next_limit(40, jobs(40, slowdown=20), Memory(), POLICY)
    assert step.limit < 20


def test_the_limit_stays_below_the_cost_ceiling() -> None:
    step = next_limit(10, jobs(10, slowdown=2, cost=30_000), Memory(), POLICY)
    assert step.limit < 10
    assert step.reason == "over_the_ceiling"


def test_a_limit_with_less_throughput_than_a_lower_one_is_left() -> None:
    memory = Memory()
    for _ in range(6):
        memory = next_limit(15, jobs(16), memory, POLICY).memory
    step = next_limit(20, jobs(20, slowdown=1.6), memory, POLICY)
    assert (step.limit, step.reason) == (16, "worse_than_lower")


def test_a_hardly_known_lower_limit_is_tried_after_a_long_time_at_one() -> None:
    memory = next_limit(18, jobs(18, slowdown=1.2), Memory(), POLICY).memory
    memory = next_limit(21, jobs(21, slowdown=1.6), memory, POLICY).memory
    below = next_limit(18, jobs(18, slowdown=1.2), memory, POLICY)
    assert (below.limit, below.reason) == (18, "worse_than_lower")
    while below.limit == 18:
        below = next_limit(18, jobs(18, slowdown=1.2), below.memory, POLICY)
    assert (below.limit, below.reason) == (16, "unknown_below")
    fewer = next_limit(16, jobs(16, slowdown=1.2), below.memory, POLICY)
    assert fewer.limit == 18
    better = next_limit(16, jobs(16), below.memory, POLICY)
    assert (better.limit, better.reason) == (16, "worse_than_lower")


def test_a_lower_limit_is_not_tried_if_it_cannot_do_more() -> None:
    """Where 18 get the work of 18 idle servers done, 16 cannot do as much."""
    step = next_limit(21, jobs(21, slowdown=1.6), next_limit(18, jobs(18), Memory(), POLICY).memory, POLICY)
    for _ in range(50):
        step = next_limit(18, jobs(18), step.memory, POLICY)
        assert step.limit >= 18


def test_the_limit_falls_if_much_less_is_done_than_before() -> None:
    before = next_limit(28, jobs(28), Memory(), POLICY)
    step = next_limit(28, jobs(28, slowdown=4), before.memory, POLICY)
    assert (step.limit, step.reason) == (14, "worse_than_before")  # half, for a quarter
    slower = next_limit(28, jobs(28, slowdown=1.5), before.memory, POLICY)
    assert slower.reason != "worse_than_before"


def test_a_bad_limit_is_tried_sooner_where_times_were_better() -> None:
    def bad_weight(slowdown_above: float) -> float:
        memory = next_limit(28, jobs(28, slowdown=slowdown_above), Memory(), POLICY).memory
        memory = next_limit(16, jobs(16, slowdown=2), memory, POLICY).memory
        for _ in range(5):
            memory = next_limit(12, jobs(12), memory, POLICY).memory
        return next(sample.weight for sample in memory.seen if sample.rate == pytest.approx(8))

    assert bad_weight(slowdown_above=1) < 0.5 * bad_weight(slowdown_above=4)


def stuck(running: int) -> list[Running]:
    return [Running(1800, 150)] * running


def test_a_limit_at_which_nothing_ends_returns_to_the_best_lower_one() -> None:
    memory = next_limit(28, jobs(28), Memory(), POLICY).memory
    step = follow(36, [], memory, POLICY, stuck(36))
    assert (step.limit, step.reason) == (28, "nothing_ends")
    unknown = follow(36, [], Memory(), POLICY, stuck(36))
    assert (unknown.limit, unknown.reason) == (18, "nothing_ends")


def test_a_stuck_limit_at_which_jobs_ended_before_is_halved() -> None:
    memory = next_limit(36, jobs(36), next_limit(28, jobs(28), Memory(), POLICY).memory, POLICY).memory
    assert follow(36, [], memory, POLICY, stuck(36)).limit == 18


def test_a_limit_that_was_left_is_not_lowered_again_while_its_jobs_end() -> None:
    left = follow(36, [], Memory(), POLICY, stuck(36))
    still = follow(left.limit, [], left.memory, POLICY, stuck(30))
    assert (still.limit, still.memory) == (18, left.memory)
    held_up = jobs(33, slowdown=20)
    assert follow(left.limit, held_up, left.memory, POLICY).reason == "too_few_jobs"


def test_the_limit_grows_slowly_towards_one_that_was_bad_long_ago() -> None:
    def learnt(steps: int) -> Memory:
        memory = next_limit(20, jobs(20), Memory(), POLICY).memory
        memory = next_limit(28, jobs(28, slowdown=4), memory, POLICY).memory
        for _ in range(steps):
            memory = next_limit(20, jobs(20), memory, POLICY).memory
        return memory

    assert follow(24, jobs(24, count=200), learnt(20), POLICY).limit == 24
    assert follow(24, jobs(24, count=200), learnt(130), POLICY).limit == 26
    assert follow(24, jobs(24, count=200), learnt(300), POLICY).limit > 28


def test_a_limit_that_is_not_used_up_does_not_grow_on_a_guess() -> None:
    step = next_limit(8, jobs(1.5), Memory(), POLICY)
    assert (step.limit, step.reason) == (8, "not_used_up")
    half_used = next_limit(8, jobs(4.5), Memory(), POLICY)
    assert (half_used.limit, half_used.reason) == (9, "not_used_up")
    assert next_limit(8, jobs(5), Memory(), POLICY).reason == "room_to_grow"
