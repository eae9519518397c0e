"""The circuit breaker: when a provider gets no new jobs, when it is tried again, and its alerts."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.model.jobs import Occupied, WaitingJob
from reelkeeper.rules.jobs.breaker import (
    LOCKED,
    RULE,
    Breaker,
    BreakerPolicy,
    Outcome,
    Phase,
    after,
    judge,
    news,
)
from reelkeeper.rules.jobs.caps import Cap, Room
from tests.jobs import NOON, at

POLICY = BreakerPolicy()
NONE_MADE = (Outcome.FAILED,) * 10  # as few as a provider is judged by
M, S, F, L = Outcome.MADE, Outcome.SLOW, Outcome.FAILED, Outcome.LOCKED


def seen(*outcomes: Outcome, policy: BreakerPolicy = POLICY, minutes: float = 1) -> Breaker:
    """Tell a new breaker of attempts, so many minutes from one to the next, the last at noon."""
    breaker = Breaker()
    for ago, outcome in reversed(list(enumerate(reversed(outcomes)))):
        breaker = after(breaker, outcome, "j", "no answer", at(-minutes * ago), policy)
    return breaker


@pytest.mark.parametrize(
    ("outcomes", "phase"),
    [
        ([F] * 9, Phase.CLOSED),  # too few to judge
        ([F] * 10, Phase.OPEN),
        ([*[M] * 5, *[F] * 5], Phase.OPEN),  # just half
        ([*[M] * 6, *[F] * 5], Phase.CLOSED),
        ([M, S] * 5, Phase.OPEN),  # too late is as bad
        ([*[F] * 5, *[M] * 5], Phase.CLOSED),  # what is made opens nothing
        ([*[F] * 9, *[M] * 20, *[F] * 9], Phase.CLOSED),  # the twenty last
        ([L], Phase.OPEN),
    ],
)
def test_a_breaker_opens_after_enough_failed_attempts_or_at_once_for_a_locked_account(
    outcomes: list[Outcome], phase: Phase
) -> None:
    assert seen(*outcomes).phase(NOON) is phase


@pytest.mark.parametrize(("minutes_ago", "phase"), [(29.9, Phase.OPEN), (30, Phase.CLOSED)])
def test_an_attempt_counts_for_half_an_hour(minutes_ago: float, phase: Phase) -> None:
    breaker = after(Breaker(), F, "j", "no answer", at(-minutes_ago), POLICY)
    for _ in NONE_MADE[1:]:
        breaker = after(breaker, F, "j", "no answer", NOON, POLICY)
    assert breaker.phase(NOON) is phase


def test_a_rule_that_is_off_opens_for_a_locked_account_alone() -> None:
    off = POLICY.model_copy(update={"bad_percent": None})
    assert seen(*NONE_MADE, policy=off).phase(NOON) is Phase.CLOSED
    assert seen(F, L, policy=off).phase(NOON) is Phase.OPEN


@pytest.mark.parametrize(("seconds", "outcome"), [(1_000, M), (1_001, S), (None, M)])
def test_a_video_is_too_late_that_took_many_times_its_estimate(seconds: float | None, outcome: Outcome) -> None:
    assert judge(seconds, 100) is outcome


def test_an_open_breaker_tries_after_a_doubling_wait_and_closes_once_all_trial_jobs_are_made() -> None:
    breaker, as_of = seen(*NONE_MADE), NOON
    for waited in (60, 120, 240, 480, 960, 1800, 1800):
        assert breaker.phase(as_of + timedelta(seconds=waited - 1)) is Phase.OPEN
        as_of += timedelta(seconds=waited)
        assert breaker.phase(as_of) is Phase.TRIAL
        assert breaker.room([]) == 2
        breaker = after(breaker.trying(["t"]), F, "t", "no answer", as_of, POLICY)
        assert breaker.since == NOON
    as_of += timedelta(seconds=1800)
    breaker = breaker.trying(["t", "u"]).trying(["u", "t"])
    assert breaker.trials == ("t", "u"), "a job that the vendor has no place for is tried again and again"
    assert breaker.room(["t", "u", "x"]) == 0
    assert breaker.room(["u"]) == 1  # t was refused for its content: it says nothing
    breaker = after(breaker, M, "u", "", as_of, POLICY)
    assert (breaker.phase(as_of), breaker.room(["t"])) == (Phase.TRIAL, 0)
    assert after(breaker, M, "t", "", as_of, POLICY) == Breaker()


@given(st.lists(st.sampled_from(list(Outcome)), max_size=20))
def test_jobs_that_were_sent_before_it_opened_change_nothing(outcomes: list[Outcome]) -> None:
    breaker = seen(*NONE_MADE).trying(["t"])
    for outcome in outcomes:
        assert after(breaker, outcome, "earlier", "", at(2), POLICY) == breaker


def test_the_state_of_a_breaker_survives_the_store() -> None:
    for breaker in (Breaker(), seen(M, F), seen(*NONE_MADE).trying(["t"])):
        assert Breaker.model_validate(breaker.model_dump(mode="json")) == breaker


def test_an_unwell_provider_is_reported_once_until_well_and_a_locked_account_separately() -> None:
    before, opened = seen(*NONE_MADE[1:]), seen(*NONE_MADE)
    (found,) = news("fal", before, F, opened)
    assert (found.rule, found.scope) == (RULE, "provider:fal")
    assert found.text == snapshot(
        "10 of its last 10 attempts failed; the last: no answer. What it has already is looked after. After a wait a few jobs try it; once they are made, it gets all again by itself. Jobs of a model with another provider go there meanwhile."
    )
    again = after(opened.trying(["t"]), F, "t", "no answer", at(2), POLICY)
    assert news("fal", opened, F, again) == []
    (locked,) = news("fal", opened, L, after(opened.trying(["t"]), L, "t", "no balance", at(2), POLICY))
    assert (locked.rule, "no balance" in locked.text) == (LOCKED, True)
    assert news("fal", before, M, seen(*NONE_MADE[1:], M)) == []


def test_a_provider_that_is_tried_has_room_for_its_trial_beside_its_cap() -> None:
    job = WaitingJob("j", "ann", "pro", NOON, 100.0, "veo", lane="fal")
    room = Room(
        [Cap(scope="provider:fal", jobs=5)], [Occupied("fal", "veo", "pro", "ben", 4)], more={"fal": 2, "ltx": 0}
    )
    assert (room.shut(), room.fits(job), room.fits(job._replace(lane="ltx"))) == ({"provider:ltx"}, True, False)
    assert room.take(job)  # its cap is full
    room = Room([], [], more={"fal": 2})
    assert [room.take(job), room.take(job)] == [False, True]
    assert (room.shut(), room.fits(job._replace(lane="runway"))) == ({"provider:fal"}, True)
