"""What a vendor is sent, by what it accepted and refused: at each boundary, and in whole runs against vendors."""

import heapq
import random
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from reelkeeper.rules.jobs.lanes import Lane, Refusal, There

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def refused(
    lane: Lane, accepted: int, seconds: float, key: str = "a", *, after: float = 30, is_rate: bool | None = False
) -> Lane:
    """Return the lane after a refusal at `seconds` of what was sent then under a key."""
    return lane.refused(Refusal(after, is_rate, at(seconds), key), There(accepted), at(seconds))


def test_a_refusal_caps_the_limit_at_what_was_accepted_and_each_end_frees_one_send() -> None:
    lane = refused(Lane(), 2, 0)
    assert (lane.limit, lane.held_until(at(0))) == (2, at(30))
    assert [lane.room(There(there), at(1)) for there in (0, 1, 2, 3)] == [2, 1, 0, 0]
    assert lane.room(There(0, 1, 1), at(1)) == 0  # one is under way, and one about to be sent
    assert [lane.wait_seconds(There(there, pending=9), at(1)) > 0 for there in (1, 2)] == [False, True]


def test_a_refusal_in_place_of_a_job_that_ended_shuts_the_lane_for_the_whole_time() -> None:
    lane = refused(refused(Lane(), 2, 0), 1, 10)
    assert (lane.limit, lane.held_until(at(10))) == (1, at(40))
    assert lane.room(There(0), at(39)) == 0
    assert lane.wait_seconds(There(0), at(39)) == 1
    assert lane.room(There(0), at(40)) == 1
    assert lane.wait_seconds(There(0), at(40)) == 0


def test_a_limit_recovers_by_one_more_at_a_time_and_refused_ones_are_tried_ever_less() -> None:
    lane = refused(Lane(), 2, 0)
    assert (lane.room(There(2), at(29)), lane.room(There(2), at(30)), lane.room(There(2, 1), at(30))) == (0, 1, 0)
    waits, now = [], 30.0
    for key in "bcdefgh":
        lane = lane.after_sending(key, There(2), at(now))
        lane = refused(lane, 1, now, key)  # a job ended while it was under way
        assert (lane.limit, lane.is_shut) == (2, False)
        until = lane.held_until(at(now))
        assert until
        waits.append((until - at(now)).total_seconds())
        now += waits[-1]
    assert waits == [60, 120, 240, 480, 600, 600, 600]
    lane = lane.after_accepting(3)
    assert (lane.limit, lane.misses, lane.room(There(3), at(now))) == (3, 0, 1)
    lane = lane.after_sending("z", There(3), at(now))
    assert refused(lane, 3, now, "z").held_until(at(now)) == at(now + 60)


def test_of_a_crowd_that_was_under_way_only_the_first_refusal_counts_and_the_accepted_ones_do() -> None:
    lane = refused(Lane(), 0, 1)  # refusals come faster than acceptances
    assert (lane.limit, lane.is_shut) == (1, True)
    lane = lane.after_accepting(1).after_accepting(2)
    assert (lane.limit, lane.is_shut, lane.misses) == (2, False, 0)
    for sent, is_one in ((0.5, True), (1.5, False)):
        assert (lane.refused(Refusal(30, False, at(sent)), There(2), at(2)) == lane) is is_one


def test_a_vendor_that_refused_nothing_gets_a_few_and_then_twice_what_it_has_accepted() -> None:
    lane = Lane()
    assert lane.room(There(99), at(0)) is None
    sent = [There(0, 3), There(0, 4), There(1, 3), There(4, 3), There(4, 4), There(50, 49), There(50, 50), There(99)]
    assert [lane.wait_seconds(there, at(0)) == 0 for there in sent] == [
        True,
        False,
        False,
        True,
        False,
        True,
        False,
        True,
    ]


def test_jobs_that_come_too_fast_are_spaced_by_what_was_accepted_and_the_space_shrinks() -> None:
    refusal = Refusal(57, is_rate=True, sent_at=at(3), accepted_lately=10, first_lately=at(0))
    lane = Lane().refused(refusal, There(10), at(3))
    assert (lane.limit, lane.gap_seconds, lane.room(There(0), at(57))) == (None, 6, 0)
    assert (lane.room(There(0), at(60)), lane.room(There(0, 0, 1), at(60))) == (1, 0)
    assert [lane.wait_seconds(There(0), at(59)), lane.wait_seconds(There(0), at(60))] == [1, 0]
    lane = lane.after_sending("a", There(), at(60))
    assert lane.next_at == at(66)
    assert lane.gap_seconds == pytest.approx(6 * 0.98)
    again = lane.refused(
        Refusal(1, is_rate=True, sent_at=at(66), accepted_lately=1, first_lately=at(66)), There(1), at(66)
    )
    assert again.gap_seconds == pytest.approx(6 * 0.98 * 1.25)
    for second in range(500):
        lane = lane.after_sending("a", There(), at(second))
    assert (lane.gap_seconds, lane.next_at, lane.room(There(0), at(999))) == (0, None, None)


def test_a_refusal_without_a_reason_is_about_the_number_if_the_vendor_has_jobs_of_ours() -> None:
    lane = refused(Lane(), 3, 0, is_rate=None)
    assert (lane.limit, lane.is_shut, lane.gap_seconds) == (3, False, 0)
    lane = refused(Lane(), 0, 0, is_rate=None)
    assert (lane.limit, lane.is_shut, lane.room(There(0), at(29)), lane.room(There(0), at(30))) == (None, True, 0, None)


def test_no_hold_is_without_end_or_without_length() -> None:
    assert refused(Lane(), 0, 0, after=0).held_until(at(0)) == at(1)
    lane = Lane()
    for number in range(99):
        lane = refused(lane.after_sending("a", There(1), at(number * 10_000)), 1, number * 10_000)
    assert lane.held_until(at(980_000)) == at(980_600)
    lane = lane.after_sending("a", There(1), at(990_000))
    assert refused(lane, 1, 990_000, after=5_000).held_until(at(990_000)) == at(995_000)
    jittered = Lane().refused(Refusal(30, is_rate=False, sent_at=at(0), jitter=1), There(1), at(0))
    assert jittered.held_until(at(0)) == at(33)


class Played(NamedTuple):
    refusals: list[float]  # seconds after the beginning
    mean_wait: float
    full_percent: float  # of the vendor's places until the last job was sent


def play(takes: int, answer_seconds: float, *, is_known: bool = False) -> Played:
    """Send 30 times as many jobs as a vendor takes at once, each for about a minute; it asks the others for 30 s."""
    chance, lane, waiting, clock, number = random.Random(takes), Lane(), 30 * takes, 0.0, 0
    events = list[tuple[float, int, str, str]]()  # when, number, what, the key of a job
    there = unanswered = busy = 0
    begun, refusals, used = list[float](), list[float](), 0.0
    sent = dict[str, float]()

    def push(when: float, what: str, key: str = "") -> None:
        heapq.heappush(events, (when, len(sent) * 10 + len(events), what, key))

    push(0.0, "look")
    while waiting or unanswered:
        before = clock
        clock, _, what, key = heapq.heappop(events)
        used += busy * (clock - before)
        match what:
            case "look":  # workers do so every 2 s
                push(clock + 2, "look")
            case "accepted":
                unanswered, there = unanswered - 1, there + 1
                lane = lane.after_accepting(there)
            case "refused":
                unanswered, waiting = unanswered - 1, waiting + 1
                refusals.append(clock)
                refusal = Refusal(30, None, at(sent[key]), key)
                lane = lane.refused(refusal, There(there, unanswered), at(clock))
            case _:
                busy, there = busy - 1, there - 1
        while waiting and (there + unanswered < takes if is_known else may_send(lane, There(there, unanswered), clock)):
            number += 1
            sent[key := str(number)] = clock
            lane = lane.after_sending(key, There(there, unanswered), at(clock))
            waiting, unanswered = waiting - 1, unanswered + 1
            if busy < takes:
                busy += 1
                begun.append(clock)
                push(clock + answer_seconds, "accepted", key)
                push(clock + answer_seconds + chance.uniform(50, 70), "over")
            else:
                push(clock + answer_seconds / 2, "refused", key)  # which is faster
    return Played(refusals, sum(begun) / len(begun), 100 * used / (takes * clock))


def may_send(lane: Lane, there: There, clock: float) -> bool:
    return lane.wait_seconds(there, at(clock)) == 0


@pytest.mark.parametrize("answer_seconds", [0.02, 1.5])
@pytest.mark.parametrize("takes", [1, 2, 7, 20])
def test_a_crowd_costs_a_vendor_few_refusals_and_its_places_stay_full(takes: int, answer_seconds: float) -> None:
    found, known = play(takes, answer_seconds), play(takes, answer_seconds, is_known=True)
    assert sum(seconds < 60 for seconds in found.refusals) <= max(6, takes)
    assert len(found.refusals) <= max(6, takes) + 8  # in half an hour
    assert found.mean_wait <= 1.02 * known.mean_wait
    assert found.full_percent >= 97
