"""The token bucket: nobody exceeds burst and rate, and waiting the stated time suffices."""

from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.core.request_limits import AccessPolicy, Allowance, take

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
