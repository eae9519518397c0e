"""Choose the first CRF of a search, from the results of earlier searches with the same encoder and preset. Pure.

The CRF at which a generator's clips meet the floor differs little between them, and much from that of others:
with three natural videos, cut twice and coded as x264 CRF 18 and 23, preset 10 met it at 33 to 35, 37 to 39, 46 to 47.
So one ridge regression over all clips models the effect of bits per pixel and size, and the mean residual of the same
model's clips, shrunk towards zero, is added.

The source's own CRF, which x264 writes into its SEI, was tried and is not used. On 18 scenes of five videos,
each coded in 7 ways, it predicts the CRF at the floor of a left-out video with an error of 3.02 (3.06 without it, root
mean square), and of another scene of a known video coded in the same way with 2.04 (2.04); it helps if the same
scene is known at another CRF (.78 instead of 1.00), which no service produces.
A cheap encode to begin with, x264 veryfast of every fifth frame at CRF 27, was tried, too: on 15 natural clips of 2.5 s
it predicts the CRF at the floor of preset 5 with a standard deviation of 3.1, where the mean of those clips has one of
2.1. Of every third frame: 2.3.
"""

from collections.abc import Sequence
from math import exp2, log2, sqrt
from statistics import fmean
from typing import Final, NamedTuple

from reelkeeper.model import CrfSearch, Media
from reelkeeper.rules.lifecycle.crf import CRF_GRID, CRF_STEPS, Probe, bytes_at, floor_crf
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe, bits_per_pixel
from reelkeeper.rules.lifecycle.worth import USUAL_BITS_PER_PIXEL, effort

# CRF at VMAF 93.5 or 5th percentile 88.5 by codec and preset of SVT-AV1 4.2, and of x264 and x265 in ffmpeg 9: means of
# bigbuckbunny, bikes and cityCC0, 640 pixels wide, x264 medium CRF 18 and veryfast CRF 23, by encodes at CRF 28 to 60,
# and 20 to 32. Those of x264 lay within 6 of one another, those of SVT-AV1 within 19.
_PRIOR_CRF: Final = {
    ("av1", 6): 43.0,
    ("av1", 8): 44.0,
    ("av1", 9): 42.0,
    ("av1", 10): 40.0,
    ("h264", 3): 26.5,
    ("h264", 4): 26.8,
    ("hevc", 2): 24.9,
}
_UNKNOWN_CRF: Final = {"h264": 27.0, "hevc": 26.6, "av1": 42.0, "vp9": 36.0}
# In steps of SVT-AV1's CRF:
_PRIOR_SD: Final = (6.0, 1.0, 1.0)  # of the CRF, and of its change per doubling of bits per pixel and of pixels
_BETWEEN_SD: Final = 5.5  # CRF, between models
_WITHIN_SD: Final = 2.0  # CRF, between clips of one model, until enough are known
_WITHIN_WEIGHT: Final = 3  # weight of this prior, in clips
_USUAL_BITS_PER_PIXEL: Final = 0.2
_USUAL_PIXELS: Final = 1280 * 720
# A dense source keeps less: slope of log2 of the share that x264 keeps at the floor over log2 of the bits per pixel,
# and its error, on 18 scenes of bigbuckbunny (clip and film), bikes, cityCC0 and a sea, each coded in 7 ways.
_KEPT_FALL: Final = -0.57
_KEPT_SD: Final = 0.39
_LEAST_DENSITY: Final = 0.02
_LEAST_SHARE, _MOST_SHARE = 0.01, 2.0  # of a source: an encode outside these was misread or ended early


class Lesson(NamedTuple):
    """The result of one earlier search: the clip's model, and the CRF and size at which it met the floor."""

    model: str | None  # the generator of the clip
    preset: int
    bits_per_pixel: float  # of the source
    pixels: int  # of a frame
    floor_crf: float
    kept_share: float  # share of the source's bytes in a result at the floor


class FirstCrf(NamedTuple):
    """A first CRF, and its standard deviation."""

    crf: float
    sd_crf: float


def lesson(search: CrfSearch, model: str | None, recipe: Recipe, acceptance: Acceptance) -> Lesson | None:
    """Extract where a search met the floor; None where nothing was measured."""
    probes = [Probe(*probe) for probe in search.probes]
    crf = floor_crf(probes, recipe, acceptance)
    if crf is None:
        return None
    share = bytes_at(probes, crf, recipe.codec) / search.source_bytes
    density = search.video_bits / max(1, search.pixels * search.frames)
    return Lesson(model, search.preset, density, search.pixels, crf, share)


class KeptShare(NamedTuple):
    """The expected share of a clip's picture bytes that is kept, and its standard deviation as a factor."""

    share: float
    factor: float


def kept_share(lessons: Sequence[Lesson], model: str | None, codec: str, prior: float, density: float) -> KeptShare:
    """Estimate the share of bytes that a clip of `model` with `density` bits per pixel keeps at the usual preset.

    `prior` is the share at the usual density, before there are results.
    """
    off = [
        log2(max(_LEAST_SHARE, min(_MOST_SHARE, item.kept_share)) / effort(codec, item.preset).relative_bytes)
        - log2(_by_density(prior, item.bits_per_pixel))
        for item in lessons
        if item.model == model
    ]
    share = _by_density(prior, density) * exp2(sum(off) / (1 + len(off)))
    return KeptShare(share, exp2(_KEPT_SD / sqrt(1 + len(off))))


def _by_density(prior: float, density: float) -> float:
    return prior * exp2(_KEPT_FALL * log2(max(density, _LEAST_DENSITY) / USUAL_BITS_PER_PIXEL))


def first_crf(lessons: Sequence[Lesson], media: Media, model: str | None, codec: str, preset: int) -> FirstCrf:
    """Choose the first CRF for a clip of `model`. `lessons` are from the same codec and version of the encoder."""
    step = CRF_STEPS[codec]
    rows = [
        (item.model, _features(item.bits_per_pixel, item.pixels), step * (item.floor_crf - _prior(codec, item.preset)))
        for item in lessons
    ]
    line = _ridge([(features, target) for _, features, target in rows])
    off = [target - _product(line, features) for made_by, features, target in rows if made_by == model]
    mean = fmean(off) if off else 0.0
    spread = sum((value - mean) ** 2 for value in off)
    within = (_WITHIN_WEIGHT * _WITHIN_SD**2 + spread) / (_WITHIN_WEIGHT + max(0, len(off) - 1))
    trust = len(off) / (len(off) + within / _BETWEEN_SD**2)
    here = _product(line, _features(bits_per_pixel(media), media.width * media.height))
    found = _prior(codec, preset) + (here + trust * mean) / step
    grid = CRF_GRID[codec]
    return FirstCrf(round(found / grid) * grid, sqrt(within + (1 - trust) * _BETWEEN_SD**2) / step)


def _prior(codec: str, preset: int) -> float:
    return _PRIOR_CRF.get((codec, preset), _UNKNOWN_CRF[codec])


def _features(density: float, pixels: int) -> tuple[float, ...]:
    return 1.0, log2(max(density, 1e-4) / _USUAL_BITS_PER_PIXEL), log2(max(pixels, 1) / _USUAL_PIXELS)


def _ridge(rows: Sequence[tuple[tuple[float, ...], float]]) -> list[float]:
    """Fit a linear model by least squares, each coefficient shrunk towards zero by its prior."""
    size, noise = len(_PRIOR_SD), _BETWEEN_SD**2
    left = [[sum(features[i] * features[j] for features, _ in rows) for j in range(size)] for i in range(size)]
    for i in range(size):
        left[i][i] += noise / _PRIOR_SD[i] ** 2
    return _solve(left, [sum(features[i] * target for features, target in rows) for i in range(size)])


def _solve(left: list[list[float]], right: list[float]) -> list[float]:
    """Solve a positive definite system by elimination; the priors make pivoting unnecessary."""
    size = len(right)
    for i in range(size):
        for j in range(i + 1, size):
            factor = left[j][i] / left[i][i]
            left[j] = [below - factor * above for below, above in zip(left[j], left[i], strict=True)]
            right[j] -= factor * right[i]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (right[i] - sum(left[i][j] * found[j] for j in range(i + 1, size))) / left[i][i]
    return found


def _product(line: Sequence[float], features: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(line, features, strict=True))
