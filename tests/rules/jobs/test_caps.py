"""Caps on jobs at once: which scope is full, and which job still fits."""

import pytest

from reelkeeper.model.jobs import Occupied, WaitingJob
from reelkeeper.rules.jobs.caps import Cap, Room
from tests.jobs import NOON


def job(user: str = "ann", model: str = "veo", tier: str | None = "pro", lane: str | None = "fal") -> WaitingJob:
    return WaitingJob("j", user, tier, NOON, 100.0, model, lane=lane)


@pytest.mark.parametrize(
    ("cap", "full"),
    [
        *((cap, True) for cap in ("provider:fal", "provider:*", "model:veo", "tier:pro", "user:ben")),
        *((cap, False) for cap in ("provider:runway", "model:wan", "tier:free", "user:ann")),
    ],
)
def test_a_job_fits_until_a_scope_of_its_own_is_full(cap: str, full: bool) -> None:
    room = Room([Cap(scope=cap, jobs=2)], [Occupied("fal", "veo", "pro", "ben", 1)])
    assert room.full() == {}
    assert room.take(job(user="ben")) == full
    assert room.fits(job(user="ben")) == (not full)
    assert set(room.full()) == ({cap.replace("*", "fal")} if full else set())


def test_each_user_has_the_cap_of_all_but_who_has_their_own() -> None:
    room = Room([Cap(scope="user:*", jobs=1), Cap(scope="user:ann", jobs=2)], [Occupied("fal", "veo", None, "ann", 1)])
    assert (room.fits(job("ann")), room.fits(job("ben"))) == (True, True)
    assert room.take(job("ben"))
    assert room.take(job("ann"))
    assert (room.full(), room.fits(job("eve"))) == ({"user:ann": (2, 2), "user:ben": (1, 1)}, True)


def test_a_job_may_have_no_provider() -> None:
    room = Room([Cap(scope="provider:*", jobs=1), Cap(scope="tier:*", jobs=1)], [Occupied(None, "veo", None, "ann", 9)])
    assert room.fits(job(tier=None, lane=None))
    assert room.fits(job())


def test_a_tuned_limit_of_a_provider_is_a_cap_and_the_lower_of_both_counts() -> None:
    at_work = [Occupied(lane, "veo", "pro", "ben", 2) for lane in ("fal", "ltx", "wan")]
    caps = [Cap(scope="provider:fal", jobs=3), Cap(scope="provider:*", jobs=2)]
    assert Room(caps, at_work, {"fal": 9, "ltx": 9}).full() == {"provider:ltx": (2, 2), "provider:wan": (2, 2)}
    assert Room(caps, at_work, {"fal": 2}).full().keys() == {"provider:fal", "provider:ltx", "provider:wan"}
    assert Room([], at_work, {"fal": 2, "ltx": 3}).full() == {"provider:fal": (2, 2)}
