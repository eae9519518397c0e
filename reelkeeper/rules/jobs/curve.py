"""Fit the curve of slowdown over concurrency, Gunther's Universal Scalability Law, to the times of jobs.

slowdown - 1 = a (n - 1) + b n (n - 1): `a` is contention, waiting for one another; `b` is coherence, a cost per pair.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Final

_PRIOR_JOBS: Final = 2.0  # weight of the prior, in jobs at n = 20
_PRIOR_CONTENTION, _PRIOR_COHERENCE = 0.02, 0.0005  # of a server with its peak at some 40 jobs
_PRIOR_AT: Final = 20
_SINGULAR: Final = 1e-9


def fit(sums: Sequence[float]) -> tuple[float, float]:
    """Fit the slowdown, with the prior as two jobs at n = 20."""
    x1, x2 = _PRIOR_AT - 1, _PRIOR_AT * (_PRIOR_AT - 1)
    y = _PRIOR_CONTENTION * x1 + _PRIOR_COHERENCE * x2
    return least_squares(sums, products(x1, x2, y, _PRIOR_JOBS * (1 + y) ** -2))


def least_squares(sums: Sequence[float], prior: Sequence[float]) -> tuple[float, float]:
    """Solve the least squares of two terms, neither below zero."""
    s11, s12, s22, s1y, s2y = map(operator.add, sums, prior)
    flat = s11 * s22 - s12 * s12
    if flat > _SINGULAR * s11 * s22:
        a, b = (s1y * s22 - s2y * s12) / flat, (s2y * s11 - s1y * s12) / flat
        if a >= 0 and b >= 0:
            return a, b
    alone_a, alone_b = max(s1y / s11, 0.0) if s11 else 0.0, max(s2y / s22, 0.0) if s22 else 0.0
    return (alone_a, 0.0) if s1y * alone_a >= s2y * alone_b else (0.0, alone_b)


def slowdown(a: float, b: float, n: float) -> float:
    """Return the time of a job if `n` run, relative to its time alone."""
    return 1 + a * (n - 1) + b * n * (n - 1)


def near_peak(a: float, b: float, limits: Iterable[int], share: float) -> int:
    """Return the smallest of the ascending limits that reaches `share` of the peak throughput."""
    rates = {n: n / slowdown(a, b, n) for n in limits}
    enough = share * max(rates.values())
    return next(n for n, rate in rates.items() if rate >= enough)


def products(x1: float, x2: float, y: float, weight: float) -> tuple[float, float, float, float, float]:
    """Return the addition of one observation to the sums for least squares with two terms."""
    return weight * x1 * x1, weight * x1 * x2, weight * x2 * x2, weight * x1 * y, weight * x2 * y


def add(sums: Iterable[float], more: Iterable[float]) -> list[float]:
    """Add one row of sums to another."""
    return list(map(operator.add, sums, more))
