"""Simulate the queue, the cache and the concurrency on generated load, with a virtual clock, beside their peers.

All results are determined by the seed, and come from models: they compare rules, and predict nothing.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Final

# Student's t, two-sided 95 %, by how many values there are: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
_STUDENT: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of at most 12 results, and the half width of its 95 % confidence interval; NaN for one."""
    if len(values) == 1:
        return values[0], float("nan")
    return fmean(values), _STUDENT[len(values) - 2] * stdev(values) / sqrt(len(values))
