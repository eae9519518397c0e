"""Which CRF next? A search of one to three full encodes for the smallest file above the quality floor. Pure."""

from math import isnan, nan
from typing import NamedTuple

from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe

_SLOPE = 0.35  # VMAF points lost per CRF where only one side is known; 0.15 to 0.45 were measured over nine clips
_AIM = 0.8  # VMAF points above the floor to aim at: a slope is a guess, and a failed probe is a wasted encode
_HOPELESS_PERCENT = 85  # of the source's size, with less than a point of quality to give away
_HOPELESS_MARGIN = 1.0
_LEAP = 8  # CRF steps after an encode that outgrew its source and so was never measured


class Probe(NamedTuple):
    """One encode of the search. `mean` and `p5` are VMAF points, None where it was ended for being too large."""

    crf: int
    size_bytes: int
    mean: float | None = None
    p5: float | None = None

    def margin(self, acceptance: Acceptance) -> float | None:
        """VMAF points above the floor, by the mean or the 5th percentile, whichever has less to give; NaN if one is."""
        if self.mean is None or self.p5 is None:
            return None
        if isnan(self.mean) or isnan(self.p5):  # min() would give either, by their order
            return nan
        return min(self.mean - acceptance.min_vmaf_mean, self.p5 - acceptance.min_vmaf_p5)


def is_good(probe: Probe, source_bytes: int, acceptance: Acceptance) -> bool:
    """Whether a probe is small enough and good enough to be the result."""
    margin = probe.margin(acceptance)
    return margin is not None and margin >= 0 and 0 < probe.size_bytes <= acceptance.most_bytes(source_bytes)


def best(probes: list[Probe], source_bytes: int, acceptance: Acceptance) -> Probe | None:
    """Pick the smallest good probe, or None."""
    return min((p for p in probes if is_good(p, source_bytes, acceptance)), key=lambda p: p.size_bytes, default=None)


def next_crf(
    probes: list[Probe], source_bytes: int, density: float, recipe: Recipe, acceptance: Acceptance
) -> int | None:
    """Choose the CRF of the next encode, or None when another would not pay.

    `density` is the source's bits per pixel. It ends at a good probe inside the band of quality, after the last
    probe allowed, at one whose quality is no number, and where a probe shows that no CRF can be both small enough and
    good enough.
    """
    if not probes:
        return recipe.crf_start
    last, lean = probes[-1], density < recipe.lean_bits_per_pixel
    done = len(probes) >= recipe.max_probes or _in_band(last, source_bytes, acceptance)
    if done or _hopeless(last, source_bytes, acceptance, lean=lean):
        return None
    wanted = max(recipe.crf_min, min(recipe.crf_max, _interpolate(probes, acceptance)))
    return None if any(wanted == probe.crf for probe in probes) else wanted


def _in_band(probe: Probe, source_bytes: int, acceptance: Acceptance) -> bool:
    margin = probe.margin(acceptance)
    band = acceptance.max_vmaf_mean - acceptance.min_vmaf_mean
    return margin is not None and margin <= band and is_good(probe, source_bytes, acceptance)


def _hopeless(probe: Probe, source_bytes: int, acceptance: Acceptance, *, lean: bool) -> bool:
    margin = probe.margin(acceptance)
    if margin is None:
        return lean
    if isnan(margin):
        return True
    large = probe.size_bytes * 100 >= _HOPELESS_PERCENT * source_bytes
    return (large and margin < _HOPELESS_MARGIN) or (lean and margin < 0)


def _interpolate(probes: list[Probe], acceptance: Acceptance) -> int:
    """Find where the margin meets the aim: between the nearest probes on both sides of the floor, else by slope."""
    known = [(p.crf, m) for p in probes if (m := p.margin(acceptance)) is not None]
    floor = max((p.crf for p in probes if p.mean is None), default=0)  # those at or below are too large anyhow
    if not known:
        return floor + _LEAP
    above = max(((c, m) for c, m in known if m >= 0), default=None)
    below = min(((c, m) for c, m in known if m < 0), default=None)
    if above and below and above[0] < below[0]:
        (low, high_margin), (high, low_margin) = above, below
        share = (high_margin - min(_AIM, high_margin / 2)) / (high_margin - low_margin)
        return max(low + 1, min(high - 1, round(low + share * (high - low))), floor + 1)
    crf, margin = above or below or known[-1]
    step = round((margin - _AIM) / _SLOPE)
    return max(crf + (step or (1 if margin >= 0 else -1)), floor + 1)
