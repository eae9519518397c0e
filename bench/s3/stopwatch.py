"""Measure CPU and wall seconds of a call: of this process, all its threads, and the programs that it ran."""

import resource
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Spent(NamedTuple):
    """Seconds."""

    cpu: float
    wall: float


def spent(work: Callable[[], T]) -> tuple[T, Spent]:
    """Return the result of `work`, and the time that it took."""
    cpu, wall = _cpu(), time.perf_counter()
    result = work()
    return result, Spent(_cpu() - cpu, time.perf_counter() - wall)


def _cpu() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
