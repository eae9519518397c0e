"""Estimate how likely, and how soon, a video is requested again, from recorded requests.

Videos are of one kind if they were requested about as often, at about the same mean interval. For each kind, a life
table gives the share of videos without a request for a given time that was requested before half of that time again had
passed; those still waiting count for the time until now. A kind with few videos borrows from all kinds, and if all
have few, a rate is used that does not depend on the waiting time. So nothing is assumed: fashions appear as videos that
are forgotten in days, weekly lists as videos that return after six days of silence.

The worth of keeping a video is 1 if it is requested at once, and falls by a factor of e for each horizon: the time in
which requests come for one and a half times as many videos as there is room for.
"""

from bisect import bisect
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, groupby, pairwise
from math import exp
from operator import add, attrgetter
from typing import Final

from reelkeeper.model.jobs import RequestTime

DAY: Final = timedelta(days=1)
EDGES: Final = tuple(2 ** (step / 2) / 64 for step in range(24))  # in days, from 22 minutes to 45 days
_TIMES: Final = (3, 6, 17)  # 2, 3 to 5, 6 to 16 and more
_INTERVALS: Final = EDGES[3::3][:7]  # for mean intervals
KINDS: Final = 1 + (len(_TIMES) + 1) * (len(_INTERVALS) + 1)
_SPELLS: Final = len(EDGES) + 1
_PRIOR_OF_A_KIND: Final = 50  # weight of all kinds together in one kind, in spells
_PRIOR_OF_ALL: Final = 400  # weight of the flat rate in all kinds together, in spells
_TURNS_AHEAD: Final = 1.5

Counts = list[list[float]]  # by kind and spell


def kind(times: int, known_days: float) -> int:
    """Return the kind of a video, by its number of requests, and the days from the first to the last."""
    if times <= 1:
        return 0
    return 1 + bisect(_TIMES, times) * (len(_INTERVALS) + 1) + bisect(_INTERVALS, known_days / (times - 1))


def spell(idle_days: float) -> int:
    """Return the row of the life tables for a video, by the time since its last request."""
    return bisect(EDGES, idle_days)


def no_counts() -> Counts:
    """Make empty counts of spells, by kind and length."""
    return [[0.0] * _SPELLS for _ in range(KINDS)]


class Habits:
    """The pattern of past requests, to predict the next ones."""

    def __init__(self, ended: Counts, waiting: Counts, requests_a_day: float) -> None:
        """Set the spells ended by a request, and those that continue."""
        self._ended, self._waiting, self._requests_a_day = ended, waiting, requests_a_day

    def worth(self, room_for_videos: float) -> Counts:
        """Return the worth of keeping a video, 0 to 1, by kind and spell."""
        horizon_days = max(_TURNS_AHEAD * room_for_videos / max(self._requests_a_day, 1e-9), EDGES[0])
        from_days = (0.0, *EDGES)
        widths = [*(till - since for since, till in pairwise(from_days)), (2**0.5 - 1) * EDGES[-1]]
        middles = [*(since + width / 2 for since, width in zip(from_days[:-1], widths[:-1], strict=True)), EDGES[-1]]
        ended, waiting = ([sum(row) for row in zip(*table, strict=True)] for table in (self._ended, self._waiting))
        days = sum((over + goes_on) * at for over, goes_on, at in zip(ended, waiting, middles, strict=True))
        rate = (sum(ended) + 1) / (days + 1)  # without data, one request a day
        common = [
            (over + _PRIOR_OF_ALL * (1 - exp(-width * rate))) / (at_risk + _PRIOR_OF_ALL)
            for over, width, at_risk in zip(ended, widths, _at_risk(ended, waiting), strict=True)
        ]
        return [
            _worth(over, _at_risk(over, goes_on), common, [width / horizon_days for width in widths])
            for over, goes_on in zip(self._ended, self._waiting, strict=True)
        ]


def learn(requests: Iterable[RequestTime], as_of: datetime) -> Habits:
    """Count the spells between requests, which are grouped by key, in the order of time."""
    ended, waiting, count, first_of_all = no_counts(), no_counts(), 0, as_of
    for _, of_one in groupby(requests, key=attrgetter("key")):
        times = [request.at for request in of_one if request.at <= as_of]
        if not times:
            continue
        count, first_of_all = count + len(times), min(first_of_all, times[0])
        for number, (at, then) in enumerate(pairwise(times), 1):
            ended[kind(number, (at - times[0]) / DAY)][spell((then - at) / DAY)] += 1
        waiting[kind(len(times), (times[-1] - times[0]) / DAY)][spell((as_of - times[-1]) / DAY)] += 1
    return Habits(ended, waiting, count / max((as_of - first_of_all) / DAY, EDGES[0]))


def _worth(
    ended: Sequence[float], at_risk: Sequence[float], common: Sequence[float], widths: Sequence[float]
) -> list[float]:
    """Return the worth of a kind's videos by spell, from the middle of each; `widths` are in horizons."""
    worth, after = list[float](), 0.0  # `after`: the worth from the beginning of the next spell
    for over, exposed, usual, width in reversed(list(zip(ended, at_risk, common, widths, strict=True))):
        requested_share = (over + _PRIOR_OF_A_KIND * usual) / (exposed + _PRIOR_OF_A_KIND)
        worth.append(requested_share * exp(-width / 3) + (1 - requested_share) * exp(-width / 2) * after)
        after = requested_share * exp(-width / 2) + (1 - requested_share) * exp(-width) * after
    return worth[::-1]


def _at_risk(ended: Sequence[float], waiting: Sequence[float]) -> list[float]:
    """Count the spells that reached each row; continuing ones count half in their last."""
    later = accumulate(reversed([*map(add, ended[1:], waiting[1:]), 0.0]))
    return [more + over + goes_on / 2 for more, over, goes_on in zip(reversed([*later]), ended, waiting, strict=True)]
