"""Choose the next CRF: a search with few full encodes for the smallest file above the quality floors. Pure.

It uses two linear models, both fitted on natural clips at presets 8 and 10 (see `first_crf`): the logarithm of the
distance to VMAF's maximum grows linearly with the CRF, and the logarithm of the size falls linearly.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import exp2, floor, isnan, log, log2, nan
from statistics import NormalDist
from typing import Final, NamedTuple

from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe

# The value of one CRF step of each encoder in steps of SVT-AV1, by its effect on quality and size on bigbuckbunny,
# bikes and cityCC0, as in `first_crf`. The figures below are for a step of SVT-AV1.
CRF_STEPS: Final = {"h264": 2.5, "hevc": 2.2, "av1": 1.0, "vp9": 1.0}
# The grid of CRFs: x264 and x265 accept halves, and one of their whole steps is 6 to 10 % of the bytes.
CRF_GRID: Final[dict[str, float]] = {"h264": 0.5, "hevc": 0.5, "av1": 1, "vp9": 1}
_TOP: Final = 101.4  # VMAF points at which the line of the quality begins; still pictures reach 97.4
_LEAST_MISSING: Final = 0.9
_FALL: Final = 0.055  # growth of the logarithm of the missing quality per CRF: 0.035 to 0.09 on six clips
_SHRINK: Final = 0.065  # fall of log2 of the size per CRF: 0.03 to 0.1
_LEAST_SHRINK: Final = 0.03  # the same, to conclude from one encode that none is both small and good enough
_DRIFT: Final = 0.3  # standard deviation of an aim, relative to its distance from the nearest encode
_LEAP: Final = 8  # CRF steps after an encode that was larger than allowed, and so not measured
_CHANCE: Final = 0.75  # probability that another probe gives the expected result
_NEAR: Final = 1.1  # factor of the largest size allowed, up to which an expected size is tried
_USUAL_FLOOR: Final = 93.0  # VMAF points, for the slope near it
_QUANTILES: Final = tuple(NormalDist().inv_cdf((number + 0.5) / 20) for number in range(20))
_SURE_CRF: Final = 3.0  # standard deviation of a first CRF, below which it rarely misses
_MAX_PROBES: Final = 4  # encodes per video: the search ends at the best of them
_AIM_POINTS: Final = 0.5  # VMAF points above both floors that the search aims for: a miss costs another encode
# In the search, every third frame is compared, for half of the CPU; an odd step, as an even one meets only the better
# frames of SVT-AV1's pyramid: VMAF of them is points too high. A result is compared by every frame.
_SEARCH_STEP: Final = 3
_MIN_SAMPLES: Final = 40  # frames; the 5th percentile of fewer is off by up to 2.7 points


class Probe(NamedTuple):
    """One encode of the search. `mean` and `p5` are VMAF points, None if it was stopped as too large.

    They are measured on every `frame_step`-th frame.
    """

    crf: float
    size_bytes: int
    mean: float | None = None
    p5: float | None = None
    frame_step: int = 1

    def margin(self, acceptance: Acceptance) -> float | None:
        """Return the VMAF points above the floor, the lesser of mean and 5th percentile; NaN if either is NaN."""
        if self.mean is None or self.p5 is None:
            return None
        if isnan(self.mean) or isnan(self.p5):  # the result of min() would depend on the order
            return nan
        return min(self.mean - acceptance.min_vmaf_mean, self.p5 - acceptance.min_vmaf_p5)


class Stakes(NamedTuple):
    """The value of a saved byte over the rest of the video's life and the cost of another probe, in dollars."""

    usd_per_byte: float
    usd_per_probe: float


FREE_SHARE: Final = 0.03  # share of a result's bytes that justifies another encode if CPU has no price


def is_good(probe: Probe, source_bytes: int, acceptance: Acceptance) -> bool:
    """Check whether a probe is small enough and good enough to be the result, by the frames that were compared."""
    margin = probe.margin(acceptance)
    return margin is not None and margin >= 0 and 0 < probe.size_bytes <= acceptance.most_bytes(source_bytes)


def best(probes: Sequence[Probe], source_bytes: int, acceptance: Acceptance) -> Probe | None:
    """Pick the smallest good probe, or None."""
    return min((p for p in probes if is_good(p, source_bytes, acceptance)), key=lambda p: p.size_bytes, default=None)


def next_crf(
    probes: Sequence[Probe], source_bytes: int, recipe: Recipe, acceptance: Acceptance, first: float, stakes: Stakes
) -> float | None:
    """Choose the CRF of the next encode, or None when another would not pay. It begins at `first`.

    The search ends after the last probe allowed, at a probe without quality, if no new CRF is closer to the aim, or if
    the expected saving of another probe is worth less than its CPU. A near miss gets another probe.
    """
    lowest, highest = recipe.crf_range
    if not probes:
        return max(lowest, min(highest, first))
    if len(probes) >= _MAX_PROBES or any(isnan(probe.margin(acceptance) or 0) for probe in probes):
        return None
    found = best(probes, source_bytes, acceptance)
    wanted = max(lowest, min(highest, _aimed_at(probes, recipe, acceptance, stakes)))
    if any(wanted == probe.crf for probe in probes) or (found is not None and wanted < found.crf):
        return None
    most = acceptance.most_bytes(source_bytes)
    expected = _expected_bytes(probes, wanted, most, recipe.codec, _SHRINK if found else _LEAST_SHRINK)
    if found is None and expected > _NEAR * most:
        return None
    gained = _CHANCE * ((found.size_bytes if found else source_bytes) - expected)
    return wanted if gained > 0 and gained * stakes.usd_per_byte > stakes.usd_per_probe else None


def careful(first: float, sd_crf: float, kept_bytes: int, stakes: Stakes, recipe: Recipe) -> float:
    """Move a first CRF away from the floor to the best expected net saving: a miss costs an encode, a low CRF bytes.

    `sd_crf` is its standard deviation, `kept_bytes` the expected size of a result. The CRF is on the codec's grid.
    """
    steps, grid = CRF_STEPS[recipe.codec], CRF_GRID[recipe.codec]
    missing = _TOP - _USUAL_FLOOR
    spare = _AIM_POINTS / (missing * _FALL * steps)  # CRF steps from the aim to the floor

    def loss(lower: float) -> float:
        bytes_more, misses = 0.0, 0
        for off in _QUANTILES:
            room = off * sd_crf + lower
            if room < -spare:
                misses += 1
            else:
                bytes_more += kept_bytes * (exp2(_SHRINK * steps * room) - 1)
        return (misses * stakes.usd_per_probe + bytes_more * stakes.usd_per_byte) / len(_QUANTILES)

    return first - min((number * grid for number in range(int(2 * sd_crf / grid) + 1)), key=loss)


def frame_step(probes: Sequence[Probe], frames: int, sd_crf: float, recipe: Recipe, acceptance: Acceptance) -> int:
    """Choose the step of the frames to compare in the next probe: 1, every frame, where it may be the result.

    Comparing a result twice costs more than sampling every third frame saves, so only a probe that will probably be
    followed by another is sampled: the first one while little is known (`sd_crf` is its standard deviation), and one
    outside the range of the others.
    """
    margins = [margin for probe in probes if (margin := probe.margin(acceptance)) is not None]
    between = any(margin >= 0 for margin in margins) and any(margin < 0 for margin in margins)
    sure = between if probes else sd_crf * CRF_STEPS[recipe.codec] <= _SURE_CRF
    is_last = len(probes) + 1 >= _MAX_PROBES
    return 1 if sure or is_last or frames < _SEARCH_STEP * _MIN_SAMPLES else _SEARCH_STEP


def floor_crf(probes: Sequence[Probe], recipe: Recipe, acceptance: Acceptance) -> float | None:
    """Find the CRF at which a search met, or would have met, its aim; None if nothing was measured."""
    missing = [(_missing(p, acceptance), float(p.crf)) for p in probes if _is_measured(p, acceptance)]
    return _at(missing, _aim(acceptance), 1 / (_FALL * CRF_STEPS[recipe.codec])) if missing else None


def bytes_at(probes: Sequence[Probe], crf: float, codec: str, shrink: float = _SHRINK) -> float:
    """Estimate the size of an encode at `crf` from those that were made, at least one."""
    sizes = [(float(probe.crf), log2(max(1, probe.size_bytes))) for probe in probes]
    return exp2(min(62.0, _at(sizes, crf, -shrink * CRF_STEPS[codec])))


def _expected_bytes(probes: Sequence[Probe], crf: float, most_bytes: int, codec: str, shrink: float) -> float:
    """Estimate the size at `crf`. A probe that was stopped as too large counts at the largest allowed size or more."""
    bounded = [p if p.mean is not None else p._replace(size_bytes=max(p.size_bytes, most_bytes)) for p in probes]
    return bytes_at(bounded, crf, codec, shrink)


def _aimed_at(probes: Sequence[Probe], recipe: Recipe, acceptance: Acceptance, stakes: Stakes) -> float:
    outgrown = max((probe.crf for probe in probes if probe.mean is None), default=0)  # lower ones are too large, too
    aim = floor_crf(probes, recipe, acceptance)
    if aim is None:
        return outgrown + round(_LEAP / CRF_STEPS[recipe.codec])
    grid = CRF_GRID[recipe.codec]
    far = min(abs(probe.crf - aim) for probe in probes if _is_measured(probe, acceptance))
    left = round(bytes_at(probes, aim, recipe.codec))
    return max(outgrown + grid, careful(floor(aim / grid) * grid, _DRIFT * far, left, stakes, recipe))


def _is_measured(probe: Probe, acceptance: Acceptance) -> bool:
    margin = probe.margin(acceptance)
    return margin is not None and not isnan(margin)


def _missing(probe: Probe, acceptance: Acceptance) -> float:
    return _logarithm(probe.margin(acceptance) or 0.0, acceptance)


def _aim(acceptance: Acceptance) -> float:
    return _logarithm(_AIM_POINTS, acceptance)


def _logarithm(margin: float, acceptance: Acceptance) -> float:
    return log(max(_LEAST_MISSING, _TOP - acceptance.min_vmaf_mean - margin))


def _at(points: Sequence[tuple[float, float]], x: float, slope: float) -> float:
    """Interpolate y at `x` between its neighbours, or extrapolate from the nearest, by `slope` or two points."""
    known = sorted(points)
    for (left, low), (right, high) in pairwise(known):
        if left <= x <= right and left < right:
            return low + (x - left) / (right - left) * (high - low)
    near, value = min(known, key=lambda point: abs(point[0] - x))
    others = [point for point in known if point[0] != near]
    if others:
        other, there = min(others, key=lambda point: abs(point[0] - near))
        steepness = (there - value) / (other - near) / slope
        slope *= max(0.5, min(2.0, steepness))
    return value + (x - near) * slope
