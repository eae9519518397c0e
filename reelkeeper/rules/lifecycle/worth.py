"""Value an encode: saved bytes at R2's price until the policy has them deleted, less CPU and requests. Pure.

Before a video is opened, only its size is known, and the results and costs of earlier encodes are used; afterwards,
its pixels and bits. The original stays beside its result for its grace, as on the bill. Nothing pays while R2's free
allowance covers all that is stored: nothing is saved until it no longer does, and a plan of that day can still encode.
"""

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from math import log1p
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.model import CrfSearch, Media, SearchTotals
from reelkeeper.model.money import MICRO
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH, GB, MILLION, STANDARD
from reelkeeper.rules.core.wording import many

_READS, _WRITES = 3, 1  # download, headers, read back; put
REQUESTS_USD: Final = float(
    (_WRITES * STANDARD.class_a_usd_per_million + _READS * STANDARD.class_b_usd_per_million) / MILLION
)
# And CopyObject; two looks at the copy, one at the key, and the headers before the put.
REQUESTS_IN_PLACE_USD: Final = REQUESTS_USD + float(
    (STANDARD.class_a_usd_per_million + 4 * STANDARD.class_b_usd_per_million) / MILLION
)
USD_PER_BYTE_DAY: Final = float(STANDARD.storage_usd_per_gb_month) / GB / DAYS_A_MONTH
_HOUR_SECONDS: Final = 3600


class Effort(NamedTuple):
    """The effect of a preset: bytes relative to the usual preset, and CPU seconds per million pixels."""

    relative_bytes: float
    encode_cpu_seconds: float


# At the same floor on natural clips 640 to 1280 pixels wide, on one core of an EPYC with AVX2. SVT-AV1 4.2 at lp=1;
# two-pass libvpx-vp9 at cpu-used 4 by the ratio of its CPU to SVT-AV1's at preset 6, x264 and x265 by the ratio to
# SVT-AV1's at preset 8.
EFFORTS: Final[Mapping[str, Mapping[int, Effort]]] = {
    "h264": {3: Effort(1.10, 0.036), 4: Effort(1.05, 0.043), 5: Effort(1.0, 0.047), 6: Effort(0.99, 0.060)},
    "hevc": {2: Effort(1.1, 0.068), 5: Effort(1.0, 0.094)},
    "av1": {10: Effort(1.32, 0.037), 9: Effort(1.08, 0.053), 8: Effort(1.0, 0.072), 6: Effort(0.89, 0.108)},
    "vp9": {4: Effort(1.25, 0.26)},
}
USUAL_PRESET: Final = {"h264": 5, "hevc": 5, "av1": 8, "vp9": 4}
# Relative to SVT-AV1's, at the usual presets and the same floor.
RELATIVE_BYTES: Final = {"h264": 1.23, "hevc": 1.27, "av1": 1.0, "vp9": 1.25}
COMPARE_CPU_SECONDS: Final = 0.032  # for VMAF of all frames, per million pixels
USUAL_BITS_PER_PIXEL: Final = 0.36  # 30 MB for 15 s of 720p
EXPECTED_SHARE: Final = 0.35  # of a source's bytes, in a result, until earlier ones are known: three natural clips
EXPECTED_PROBES: Final = 1.5  # encodes until the CRF is found
_PRIOR_BYTES: Final = 50_000_000  # weight of the prior, in source bytes
_PRIOR_CPU_SECONDS: Final = 10.0  # weight of a prior pace: two to five searches of clips in SD
# Cases for a file of known size: probability, and factors of the expected CPU and saved bytes. A third is
# half as dense as usual, and takes twice the CPU for its bytes; a third is three times as dense.
_MAY_BE: Final = ((0.3, 2.0, 0.72), (0.4, 0.8, 1.04), (0.3, 0.33, 1.22))
# While fewer searches than this are known, some videos that do not pay are tried, if they would pay should all the
# missing searches go as well as can be. 200 searches show whether clips of 2 MB pay, a dozen whether clips of 5 MB do.
# The best clips are ten times as dense as usual, as ProRes 422 HQ is (about 225 Mbps at 1080p30, by Unreal Engine's
# manual): they take a tenth of the CPU for their bytes and, by the slope in `first_crf`, keep a tenth of them.
KNOWN_SEARCHES: Final = 200
_BEST_SHARE: Final = 0.1
# What one of them may cost: 3 CPU minutes at the shipped price, enough for 8 s in 1080p.
MOST_MICROUSD_TO_LEARN: Final = 2_000


class Stay(NamedTuple):
    """The days that a policy leaves a video. None: its retention has no end, or no rule retires it unwatched."""

    rest_days: int | None = None  # until its retention ends
    grace_days: int = 0  # from its retirement until its bytes are deleted, and those of an original until they are
    unwatched_days: int | None = None  # until it is retired if nobody watches it any more
    watched_days: int = 0  # of its life, for which somebody did: at least as many as this


FOR_EVER: Final = Stay()


class Unknown(NamedTuple):
    """The figures from which the best case of an encode is computed while too few searches are known."""

    codec: str
    before: SearchTotals
    size_bytes: int
    stay: Stay


class Payback(BaseModel):
    """The price of CPU, and the days for which a saved byte counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_usd_per_hour: Decimal | None = Field(
        Decimal("0.04"),
        ge=0,
        description="Price of a CPU core per hour, in dollars; AWS Fargate charges 0.04048 (us-east-1, x86). Never: an "
        "encode is not skipped because it costs more than it saves",
    )
    horizon_days: int = Field(365, ge=1, description="Days of storage counted for a video without an end of retention")

    def days(self, stay: Stay) -> int:
        """Return the days for which a saved byte is expected to be stored, until it is deleted.

        Of videos watched until an age of s days, a share of s / (s + t) is expected to be watched for t more, as is
        likely where nothing but the age is known (Gott, Nature 363, 1993). Others count as never watched again: if one
        is, a later plan values it anew.
        """
        days = self.horizon_days if stay.rest_days is None else min(stay.rest_days, self.horizon_days)
        if stay.unwatched_days is not None:
            watched = int(stay.watched_days * log1p(days / stay.watched_days)) if stay.watched_days else 0
            days = min(days, stay.unwatched_days + watched)
        return min(days + stay.grace_days, self.horizon_days)

    def cpu_usd(self, cpu_seconds: float) -> float:
        """Price CPU seconds in dollars; 0 where no price is set."""
        return cpu_seconds / _HOUR_SECONDS * float(self.cpu_usd_per_hour or 0)


class Worth(NamedTuple):
    """The expected saving and cost of one encode. Without a price for CPU, everything pays."""

    saved_bytes: int
    days: int
    cpu_seconds: float
    payback: Payback
    original_bytes: int = 0  # that stay beside the result
    grace_days: int = 0  # for which they do
    requests_usd: float = REQUESTS_USD
    is_billed: bool = True  # more is stored than R2's free allowance covers
    chance: float = 1.0  # that it is encoded once it is open: the saving, bytes and CPU count by it
    unknown: Unknown | None = None  # None: enough searches are known

    @property
    def gain_usd(self) -> float:
        """The dollars for the saved bytes, less those for the original's grace; negative if these are more."""
        return (self.saved_bytes * self.days - self.original_bytes * self.grace_days) * USD_PER_BYTE_DAY

    @property
    def cost_usd(self) -> float:
        """The dollars for CPU and requests."""
        return self.payback.cpu_usd(self.cpu_seconds) + self.requests_usd

    @property
    def gain_microusd(self) -> int:
        """The same in micro-dollars."""
        return round(self.gain_usd * MICRO)

    @property
    def cost_microusd(self) -> int:
        """The same in micro-dollars."""
        return round(self.cost_usd * MICRO)

    @property
    def net_microusd(self) -> int:
        """The net saving in micro-dollars."""
        return self.gain_microusd - self.cost_microusd

    @property
    def pays(self) -> bool:
        """Check whether more is saved than spent, or CPU has no price."""
        return self.payback.cpu_usd_per_hour is None or (self.is_billed and self.gain_usd > self.cost_usd)

    @property
    def best_usd(self) -> float:
        """The dollars of gain less CPU if the searches still to be tried went as well as can be."""
        if self.unknown is None:
            return 0.0
        codec, before, size_bytes, stay = self.unknown
        at_best = unopened(codec, self.payback, _at_best(before, codec, size_bytes), size_bytes, stay)
        return at_best.gain_usd - self.payback.cpu_usd(at_best.cpu_seconds)

    @property
    def may_pay(self) -> bool:
        """Check whether it does not pay, but may turn out to, and costs little enough to be tried."""
        may_cost = self.is_billed and self.cost_microusd <= MOST_MICROUSD_TO_LEARN
        return may_cost and not self.pays and self.best_usd > self.requests_usd

    def sentence(self) -> str:
        """Explain the calculation."""
        price = f" at {self.payback.cpu_usd_per_hour} USD an hour" if self.payback.cpu_usd_per_hour is not None else ""
        saved, original, cpu_seconds = (
            each / self.chance for each in (self.saved_bytes / MILLION, self.original_bytes / MILLION, self.cpu_seconds)
        )
        less = f"{saved:.2f} MB less for {many(self.days, 'day')}"
        if self.grace_days:
            less += f", and the original's {original:.2f} MB more for {many(self.grace_days, 'day')}"
        if self.chance < 1:
            less = f"{self.chance:.0%} of such videos should pay once they are open, and then there are {less}"
        free = learns = ""
        if not self.is_billed:
            free = f"nothing is saved while R2's free {STANDARD.free_gb_months} GB cover all that is stored; beyond, "
        if self.may_pay:
            best = f"at best {self.best_usd - self.requests_usd:.6f} USD are left over"
            learns = f"; {best}, so it may be tried until {KNOWN_SEARCHES} searches have shown what clips here keep"
        return (
            f"{free}it is expected to save {self.gain_usd:.6f} USD and to cost {self.cost_usd:.6f} USD: {less} at "
            f"{STANDARD.storage_usd_per_gb_month} USD a GB-month; {cpu_seconds:.1f} CPU s{price}, "
            f"requests {self.requests_usd:.6f} USD{learns}"
        )


def unopened(
    codec: str, payback: Payback, before: SearchTotals, size_bytes: int, stay: Stay, *, is_billed: bool = True
) -> Worth:
    """Estimate the worth of an encode of `size_bytes` from the results and costs of earlier ones.

    Its pixels are known once it is open, and it is skipped if it then does not pay: so if CPU has a price, only
    the saving and cost of the cases that turn out to pay are expected.
    """
    prior_cpu = cpu_seconds_a_byte(codec)
    known, kept = before.source_bytes + _PRIOR_BYTES, expected_share(before)
    cpu_seconds = (before.cpu_seconds + _PRIOR_BYTES * prior_cpu) / known * size_bytes
    saved, days = max(0.0, size_bytes * (1 - kept)), payback.days(stay)
    mean_saved = mean_cpu = chances = 0.0
    if payback.cpu_usd_per_hour is not None:
        gain, cost = saved * days * USD_PER_BYTE_DAY, payback.cpu_usd(cpu_seconds)
        beside = size_bytes * stay.grace_days * USD_PER_BYTE_DAY
        for chance, dearer, better in _MAY_BE:
            if gain * better > cost * dearer + REQUESTS_USD + beside:
                mean_saved += chance * better
                mean_cpu += chance * dearer
                chances += chance
    if not chances:  # the cases make no difference
        mean_saved = mean_cpu = chances = 1.0
    mean = round(saved * mean_saved), days, cpu_seconds * mean_cpu, payback, round(size_bytes * chances)
    unknown = None if before.searches >= KNOWN_SEARCHES else Unknown(codec, before, size_bytes, stay)
    return Worth(*mean, stay.grace_days, is_billed=is_billed, chance=chances, unknown=unknown)


def _at_best(before: SearchTotals, codec: str, size_bytes: int) -> SearchTotals:
    """Return what would be known once enough searches are, if the rest were of clips of this size and the best sort."""
    more = (KNOWN_SEARCHES - before.searches) * size_bytes
    kept, cpu_seconds = round(more * _BEST_SHARE), more * cpu_seconds_a_byte(codec) * _BEST_SHARE
    known = before.source_bytes + more, before.kept_bytes + kept, before.cpu_seconds + cpu_seconds
    return SearchTotals(KNOWN_SEARCHES, before.accepted, *known)


def expected_share(before: SearchTotals) -> float:
    """Return the share of a source's bytes that its result is expected to keep, by earlier results and three clips."""
    known = before.source_bytes + _PRIOR_BYTES
    return (before.kept_bytes + _PRIOR_BYTES * EXPECTED_SHARE) / known


def expectation(before: SearchTotals) -> str:
    """Describe the share of bytes that results are expected to keep, and what it is computed from."""
    by = (
        f"by {many(before.searches, 'search')} here so far"
        if before.searches
        else "as three natural clips did. The first that are compressed here correct it; what yours would keep, "
        "reelkeeper scan --sample 10 shows, which changes no plan"
    )
    return f"A result is expected to keep {expected_share(before):.0%} of its source's bytes, {by}."


def cpu_seconds_a_byte(codec: str) -> float:
    """Return the expected CPU seconds of a search for each byte of a source, at the usual preset and density."""
    usual = EFFORTS[codec][USUAL_PRESET[codec]]
    return 8 / USUAL_BITS_PER_PIXEL / MILLION * _search_seconds(usual, EXPECTED_PROBES)


def effort(codec: str, preset: int) -> Effort:
    """Return the effort of a preset, or of the nearest known preset."""
    known = EFFORTS[codec]
    return known[min(known, key=lambda other: abs(other - preset))]


def pace(codec: str, here: Iterable[CrfSearch], anywhere: Iterable[CrfSearch]) -> float:
    """Return how many times the CPU of `EFFORTS` an encode with its comparison takes `here`, on this machine.

    Until it has searched, it counts as fast as those `anywhere`, and they as the table says. On the machine of November
    2026 the pace was 0.72 for H.264 and 0.69 for AV1, on six clips each: comparisons skip frames.
    """
    return _pace(codec, here, _pace(codec, anywhere, 1.0))


def _pace(codec: str, searches: Iterable[CrfSearch], prior: float) -> float:
    told, taken = _PRIOR_CPU_SECONDS, _PRIOR_CPU_SECONDS * prior
    for search in searches:
        megapixels = search.pixels * search.frames / MILLION
        told += megapixels * _search_seconds(effort(codec, search.preset), len(search.probes))
        taken += search.cpu_seconds
    return taken / told


def at_presets(
    media: Media,
    codec: str,
    presets: Collection[int],
    kept: float,
    payback: Payback,
    stay: Stay,
    *,
    probes: float = EXPECTED_PROBES,
) -> dict[int, Worth]:
    """Estimate the worth at each preset, where the CRF is found by `probes` encodes of the CPU that `EFFORTS` has.

    `kept` is the share of picture bytes kept at the usual preset.
    """
    megapixels = media.width * media.height * media.frames / MILLION
    found = {}
    for preset in presets:
        known = effort(codec, preset)
        saved = max(0, round(media.video_bits / 8 * (1 - kept * known.relative_bytes)))
        cpu_seconds = megapixels * _search_seconds(known, probes)
        found[preset] = Worth(saved, payback.days(stay), cpu_seconds, payback, media.size_bytes, stay.grace_days)
    return found


def choose(worths: Mapping[int, Worth], codec: str) -> int:
    """Choose the preset with the largest net saving; the usual one if CPU has no price."""
    if all(worth.payback.cpu_usd_per_hour is None for worth in worths.values()) and USUAL_PRESET[codec] in worths:
        return USUAL_PRESET[codec]
    return max(worths, key=lambda preset: worths[preset].gain_usd - worths[preset].cost_usd)


def _search_seconds(effort: Effort, probes: float) -> float:
    return (effort.encode_cpu_seconds + COMPARE_CPU_SECONDS) * probes
