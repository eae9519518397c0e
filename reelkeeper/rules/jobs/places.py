"""Estimate how many jobs of a long queue are ahead of another, from counts by rank. Pure."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Self

_WIDTH_SECONDS: Final = 60.0  # of a step: a place in the queue is off by the part of one minute's jobs


def width_of(size_weight: float) -> float:
    """Return the width of a step in seconds of rank: a minute of waiting, or a second of estimated time."""
    return max(_WIDTH_SECONDS, size_weight)


class Account(NamedTuple):
    """The number of waiting jobs and their estimated seconds: below each step of rank, and last of all."""

    width: float  # of a step, in seconds of rank
    numbers: tuple[int, ...]  # of the steps that have jobs
    jobs: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def of(cls, steps: Sequence[tuple[int, int, float]], width: float) -> Self:
        """Sum up the jobs and seconds of each step, which come in the order of their numbers."""
        numbers, jobs, seconds = zip(*steps, strict=True) if steps else ((), (), ())
        return cls(width, numbers, tuple(accumulate(jobs, initial=0)), tuple(accumulate(seconds, initial=0.0)))

    def ahead(self, rank: float) -> tuple[int, float]:
        """Return the jobs of a lower rank and their seconds, as if the jobs of its own step were spread evenly.

        >>> account = Account.of([(10, 4, 400.0), (12, 8, 800.0)], 60)
        >>> [account.ahead(60 * step) for step in (9.5, 10.5, 11, 12.25, 13)]
        [(0, 0.0), (2, 200.0), (4, 400.0), (6, 600.0), (12, 1200.0)]
        """
        number = math.floor(rank / self.width)
        place = bisect_left(self.numbers, number)
        jobs, seconds = self.jobs[place], self.seconds[place]
        if place == len(self.numbers) or self.numbers[place] != number:
            return jobs, seconds
        share = rank / self.width - number
        more = self.jobs[place + 1] - jobs
        return jobs + math.floor(share * more), seconds + share * (self.seconds[place + 1] - seconds)
