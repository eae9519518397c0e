"""The token bucket: nobody exceeds burst and rate, and waiting the stated time suffices."""

from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.core.request_limits import AccessPolicy, Allowance, next_seconds, take, window

pauses = st.lists(st.floats(0, 3), min_size=1, max_size=60)


@given(pauses, st.floats(0.1, 20), st.integers(1, 10))
def test_no_caller_gets_more_than_the_burst_and_the_rate_allow(waits: list[float], rate: float, burst: int) -> None:
    policy = AccessPolicy(requests_a_second=rate, burst=burst)
    left: Allowance | None = None
    at, passed = 1000.0, 0
    for pause in waits:
        at += pause
        left, wait = take(left, policy, at)
        passed += wait == 0
    assert passed <= burst + rate * (at - 1000.0 - waits[0]) + 1e-6


@given(st.floats(0.1, 20))
def test_a_caller_that_waits_as_told_is_allowed(rate: float) -> None:
    policy = AccessPolicy(requests_a_second=rate, burst=1)
    left, _ = take(None, policy, 0.0)
    left, wait = take(left, policy, 0.0)
    assert wait > 0
    assert take(left, policy, wait * (1 + 1e-9) + 1e-9)[1] == 0


@given(pauses, st.floats(0.1, 20), st.integers(1, 10))
def test_after_the_stated_seconds_a_caller_may_make_one_request_more_than_was_stated(
    waits: list[float], rate: float, burst: int
) -> None:
    policy = AccessPolicy(requests_a_second=rate, burst=burst)
    left: Allowance | None = None
    at = 1000.0
    for pause in waits:
        at += pause
        left, wait = take(left, policy, at)
        assert wait <= next_seconds(left, policy)
    assert left
    stated, at = int(left.requests), at + next_seconds(left, policy)
    for _ in range(min(stated + 1, burst)):
        left, wait = take(left, policy, at)
        assert wait == 0


@given(st.floats(0.01, 1000), st.integers(1, 10_000))
def test_a_caller_may_make_the_requests_of_a_window_in_each_window(rate: float, burst: int) -> None:
    requests, seconds = window(AccessPolicy(requests_a_second=rate, burst=burst))
    assert burst <= requests <= max(burst, rate * seconds)
    assert seconds >= 1
