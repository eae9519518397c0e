r"""Estimate a job's size and duration, from a prior and from recent durations of the same model.

The source document's 120 s, plus 30 s for each unit of complexity and 60 s for a full system, is the prior for an
unknown model. Each job that ends gives the factor by which the prior was wrong; the median of the last factors gains
weight over the prior as their number grows.

>>> request = GenerationRequest(model="slow", prompt="a fox " * 100)
>>> complexity(request)
Decimal('0.600000')
>>> estimate_processing_time(complexity(request), load=0.5)
Estimate(seconds=168.0, low_seconds=84.0, high_seconds=336.0, error_percent=None, jobs=0)
>>> estimate_processing_time(complexity(request), load=0.5, factors=[2.0] * 64).seconds
329.0
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from statistics import median, quantiles
from typing import Final, NamedTuple

from reelkeeper.model.requests import GenerationRequest

BASE_SECONDS: Final = 120.0  # these three figures are the source document's
COMPLEXITY_SECONDS: Final = 30.0
LOAD_SECONDS: Final = 60.0
KEPT_FACTORS: Final = 64  # of a model, the last ones
_PRIOR_JOBS: Final = 2.0  # weight of the prior, in jobs
_LEAST_JOBS: Final = 8  # minimum for an error figure
_PRIOR_SPREAD: Final = 2.0  # half to twice the estimate, before an error is known
_FACTORS: Final = (0.001, 1000.0)  # values beyond these are from a wrong clock
_PLAIN_PIXELS: Final = 1280 * 720 * 24 * 5  # of all frames of a plain job: five seconds at 720p
_PROMPT_CHARACTERS: Final = 1_000  # for one unit
_MAX_VALUE: Final = Decimal(1000)  # units, the maximum for a price
_BITS_PER_BYTE: Final = 8


class Estimate(NamedTuple):
    """The duration of a job. Eight of ten jobs take between `low_seconds` and `high_seconds`.

    `error_percent` is the median error of the last `jobs`, each estimated from the others; None before there are some.
    """

    seconds: float
    low_seconds: float
    high_seconds: float
    error_percent: float | None
    jobs: int


def complexity(request: GenerationRequest) -> Decimal:
    """Return a job's units of complexity: pixels of all frames beyond a plain job's, and the length of both prompts."""
    pixels = Decimal(request.width * request.height) * request.fps * Decimal(str(request.duration_seconds))
    words = Decimal(len(request.prompt) + len(request.negative_prompt)) / _PROMPT_CHARACTERS
    units = max(Decimal(0), pixels / _PLAIN_PIXELS - 1) + words
    return min(units, _MAX_VALUE).quantize(Decimal("0.000001"))


def expected_bytes(request: GenerationRequest, bits_per_pixel: float) -> int:
    """Return the bytes to reserve for a video, at a number of bits for each pixel of each frame."""
    pixels = request.width * request.height * request.fps * request.duration_seconds
    return max(1, math.ceil(pixels * bits_per_pixel / _BITS_PER_BYTE))


def prior_seconds(units: Decimal | float, load: float) -> float:
    """Return the source document's estimate in seconds. `load` is the share of slots that are taken, from 0 to 1."""
    return BASE_SECONDS + COMPLEXITY_SECONDS * float(units) + LOAD_SECONDS * min(max(load, 0.0), 1.0)


def factor(units: Decimal | float, load: float, took_seconds: float) -> float | None:
    """Return the factor by which the prior was wrong for a job that has ended; None for an impossible time."""
    if not 0 < took_seconds < math.inf:
        return None
    return round(min(max(took_seconds / prior_seconds(units, load), _FACTORS[0]), _FACTORS[1]), 4)


def learned(factors: Sequence[float], new: float | None) -> list[float]:
    """Add the factor of the last job to the earlier ones."""
    return [*factors, *([] if new is None else [new])][-KEPT_FACTORS:]


def expected_seconds(units: Decimal | float, load: float, factors: Sequence[float] = ()) -> float:
    """Return only the seconds of `estimate_processing_time`, without its costly error."""
    return round(prior_seconds(units, load) * _shrunk(factors), 1)


def estimate_processing_time(units: Decimal | float, load: float, factors: Sequence[float] = ()) -> Estimate:
    """Estimate how long a job will take: the prior, times the learned factor of its model, shrunk towards one."""
    prior, jobs = prior_seconds(units, load), len(factors)
    middle = _shrunk(factors)
    if jobs < _LEAST_JOBS:
        low, high, error = middle / _PRIOR_SPREAD, middle * _PRIOR_SPREAD, None
    else:
        tenths = quantiles(factors, n=10, method="inclusive")
        low, high = min(tenths[0], middle), max(tenths[-1], middle)
        others = [_shrunk([*factors[:place], *factors[place + 1 :]]) for place in range(jobs)]
        error = round(median(100 * abs(value / other - 1) for value, other in zip(factors, others, strict=True)), 1)
    return Estimate(expected_seconds(units, load, factors), round(prior * low, 1), round(prior * high, 1), error, jobs)


def _shrunk(factors: Sequence[float]) -> float:
    if not factors:
        return 1.0
    return math.exp(len(factors) * math.log(median(factors)) / (len(factors) + _PRIOR_JOBS))
