"""How likely, and how soon, is a video asked for again? Learnt from the requests that were recorded.

Videos are of one kind when they were asked for about as often, at about the same mean interval. A life table of each
kind says which share of those that nobody asked for in so long was asked for before half as long again had passed;
those that still wait count for as long as they have. Where a kind has few, it borrows from all kinds; where all have
few, from a rate that does not depend on how long a video has waited. So nothing is assumed: fashions show as videos
that are forgotten in days, weekly lists as videos that come back after six days of silence.

The worth of keeping a video is 1 if it is asked for at once, and less the later that is: by e for each horizon, the
time in which requests come for one and a half times as many videos as there is room for.
"""

from bisect import bisect
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from reelkeeper.model.jobs import RequestTime

DAY: Final = timedelta(days=1)
EDGES: Final = tuple(2 ** (step / 2) / 64 for step in range(24))  # in days, from 22 minutes to 45 days
_TIMES: Final = (3, 6, 17)  # 2, 3 to 5, 6 to 16 and more
_INTERVALS: Final = EDGES[3::3][:7]  # of mean intervals
KINDS: Final = 1 + (len(_TIMES) + 1) * (len(_INTERVALS) + 1)
_SHAPE: Final = KINDS, len(EDGES) + 1
_PRIOR_OF_A_KIND: Final = 50  # spells that all kinds together count for, in one
_PRIOR_OF_ALL: Final = 400  # and the flat rate, in all kinds together
_TURNS_AHEAD: Final = 1.5

Counts = npt.NDArray[np.float64]


def kind(times: int, known_days: float) -> int:
    """Name the kind of a video that was asked for so often, the last time so long after the first."""
    if times <= 1:
        return 0
    return 1 + bisect(_TIMES, times) * (len(_INTERVALS) + 1) + bisect(_INTERVALS, known_days / (times - 1))


def spell(idle_days: float) -> int:
    """Give the row of the life tables for a video that nobody asked for in so long."""
    return bisect(EDGES, idle_days)


def no_counts() -> Counts:
    """Begin to count spells, by kind and length."""
    return np.zeros(_SHAPE)


class Habits:
    """What the requests so far say about the next ones."""

    def __init__(self, ended: Counts, waiting: Counts, requests_a_day: float) -> None:
        """Take the spells that a request ended, and those that go on."""
        self._ended, self._waiting, self._requests_a_day = ended, waiting, requests_a_day

    def worth(self, room_for_videos: float) -> Counts:
        """Give the worth of keeping a video, 0 to 1, by kind and spell."""
        horizon_days = max(_TURNS_AHEAD * room_for_videos / max(self._requests_a_day, 1e-9), EDGES[0])
        from_days = np.array((0.0, *EDGES))
        widths = np.diff(from_days, append=2**0.5 * EDGES[-1])
        middles = np.append(from_days[:-1] + widths[:-1] / 2, EDGES[-1])
        ended, waiting = self._ended.sum(axis=0), self._waiting.sum(axis=0)
        days = float(((ended + waiting) * middles).sum())
        flat = 1 - np.exp(-widths * (ended.sum() + 1) / (days + 1))  # where nothing is known, one request a day
        common = (ended + _PRIOR_OF_ALL * flat) / (_at_risk(ended, waiting) + _PRIOR_OF_ALL)
        asked = (self._ended + _PRIOR_OF_A_KIND * common) / (_at_risk(self._ended, self._waiting) + _PRIOR_OF_A_KIND)
        soon, half, whole = (np.exp(-share * widths / horizon_days) for share in (1 / 3, 1 / 2, 1))
        worth, after = no_counts(), np.zeros(KINDS)
        for row in reversed(range(len(widths))):  # from the middle of a spell; `after` is from its beginning
            worth[:, row] = asked[:, row] * soon[row] + (1 - asked[:, row]) * half[row] * after
            after = asked[:, row] * half[row] + (1 - asked[:, row]) * whole[row] * after
        return worth


def learn(requests: Iterable[RequestTime], as_of: datetime) -> Habits:
    """Count the spells between requests; those for the same key stand together, in the order of time."""
    ended, waiting, count, first_of_all = no_counts(), no_counts(), 0, as_of
    for _, of_one in groupby(requests, key=attrgetter("key")):
        times = [request.at for request in of_one if request.at <= as_of]
        if not times:
            continue
        count, first_of_all = count + len(times), min(first_of_all, times[0])
        for number, (at, then) in enumerate(pairwise(times), 1):
            ended[kind(number, (at - times[0]) / DAY), spell((then - at) / DAY)] += 1
        waiting[kind(len(times), (times[-1] - times[0]) / DAY), spell((as_of - times[-1]) / DAY)] += 1
    return Habits(ended, waiting, count / max((as_of - first_of_all) / DAY, EDGES[0]))


def _at_risk(ended: Counts, waiting: Counts) -> Counts:
    """Count the spells that got so far; of those that go on, half are taken to be in the middle of it."""
    so_far = ended + waiting
    later = np.flip(np.cumsum(np.flip(so_far, axis=-1), axis=-1), axis=-1) - so_far
    at_risk: Counts = later + ended + waiting / 2
    return at_risk
