"""Search an encode that is smaller than its source and as good. It knows nothing of the store."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Final, NamedTuple

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import scratch_dir
from reelkeeper.errors import MediaError, MediaTimeout, NotAVideo, ToolMissing
from reelkeeper.model import CrfSearch, Media, MediaLimits, Quality, Refusal, Transcode
from reelkeeper.rules.core.wording import dollars
from reelkeeper.rules.lifecycle import crf, first_crf, transcode, worth
from reelkeeper.rules.lifecycle.first_crf import FirstCrf, Lesson
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.lifecycle.worth import FOR_EVER, MOST_MICROUSD_TO_LEARN, REQUESTS_USD, Stay, Worth

_MAX_FAILURES = 3  # runs in which a video timed out, or its tool was killed: twice may be due to a busy machine


@dataclass(frozen=True, slots=True)
class Terms:
    """What a search has to reach, and what is known of its video before it is opened."""

    recipe: Recipe
    acceptance: Acceptance
    stay: Stay = FOR_EVER  # of the video: an encode must be worth its CPU by its end
    model: str | None = None  # the generator of the clip
    requests_usd: float = REQUESTS_USD  # with those for the original's copy, where the result replaces it in place
    lessons: Sequence[Lesson] = ()  # of earlier searches with this encoder
    pace: float = 1.0  # of encodes on this machine, by those: how many times the CPU of `EFFORTS`
    to_learn: bool = False  # it may cost `MOST_MICROUSD_TO_LEARN` even if it does not pay
    failures: int = 0  # earlier runs in which the video timed out, or its tool was killed


class Permit(NamedTuple):
    """Asked during a search whether it may go on. By default it may."""

    affords: Callable[[int], bool] = lambda _microusd: True  # before each encode, with the total cost by its end
    check: Callable[[], None] = lambda: None  # twice a second while a tool runs; its error ends the tool


class Found(NamedTuple):
    """The result of a search, and its record for later ones; None where nothing was encoded."""

    result: Transcode | Refusal
    search: CrfSearch | None = None


class _Aim(NamedTuple):
    """The preset of a search, what an encode with it should save and cost, and the CRF to begin with."""

    preset: int
    expected: Worth
    first: FirstCrf


class _Draft(NamedTuple):
    """An encode on disk that looks good."""

    probe: crf.Probe
    path: Path
    media: Media
    quality: Quality


FREE: Final = Permit()


def search(source: Path, folder: Path, terms: Terms, permit: Permit = FREE) -> Found:
    """Search the smallest encode of `source` that is acceptable; leave it in `folder`.

    The same source, tools and terms give the same bytes. Raises ToolMissing, and MediaTimeout or MediaError where
    another try may succeed, except for the third while it encodes; anything else is a Refusal with its reason.
    """
    encoder = ffmpeg.tools().encoder(terms.recipe.codec)
    mark = _mark(terms, encoder)
    try:
        media = ffmpeg.inspect(source)
    except NotAVideo as wrong:
        return Found(Refusal("not_a_video", str(wrong), mark))
    aim = _aim(media, terms)
    if isinstance(aim, Refusal):
        return Found(replace(aim, recipe=mark, codec=media.codec))
    with scratch_dir(folder) as work:
        encodes = _Encodes(source, work, media, terms, aim, permit)
        chosen = encodes.choose()
        searched = encodes.record(encoder, chosen) if encodes.probes else None
        if isinstance(chosen, Refusal):
            return Found(replace(chosen, recipe=mark, codec=media.codec), searched)
        final = folder / f"{secrets.token_hex(8)}.{terms.recipe.container}"
        with chosen.path.open("rb") as file:
            sha256 = file_digest(file, "sha256").hexdigest()
        chosen.path.replace(final)
    measured = [probe for probe in encodes.probes if probe.mean is not None]  # the rest exceeded the size limit
    result = Transcode(
        path=str(final),
        size_bytes=chosen.media.size_bytes,
        sha256=sha256,
        media=chosen.media,
        quality=chosen.quality,
        crf=chosen.probe.crf,
        recipe=mark,
        encoder=encoder,
        probes=tuple((probe.crf, probe.mean or 0.0, probe.p5 or 0.0, probe.size_bytes) for probe in measured),
        cpu_seconds=encodes.cpu_seconds,
        source_codec=media.codec,
    )
    return Found(result, searched)


def why_too_large(size_bytes: int, terms: Terms) -> Refusal | None:
    """Return why a file of this size would not be opened, so that it need not be downloaded; None if it would."""
    most = MediaLimits().max_size_bytes
    # guard transcode.too_large: a file that is never opened needs five times its size on the disk, and ends each run
    if size_bytes <= most:
        return None
    mark = _mark(terms, ffmpeg.tools().encoder(terms.recipe.codec))
    return Refusal("too_large", f"{size_bytes:,} bytes, at most {most:,} are opened", mark)


def _mark(terms: Terms, encoder: str) -> str:
    return transcode.fingerprint(terms.recipe, terms.acceptance, encoder)


def _aim(media: Media, terms: Terms) -> _Aim | Refusal:
    """Choose how to begin, or refuse what cannot be encoded, or would not pay."""
    recipe, model = terms.recipe, terms.model
    if refusal := transcode.skip(media, recipe):
        return refusal
    kept = first_crf.kept_share(
        terms.lessons, model, recipe.codec, worth.EXPECTED_SHARE, transcode.bits_per_pixel(media)
    )
    at_presets = partial(worth.at_presets, media, recipe.codec, payback=recipe.payback, stay=terms.stay)
    worths = at_presets(recipe.presets, kept.share, probes=worth.EXPECTED_PROBES * terms.pace)
    preset = worth.choose(worths, recipe.codec)
    # guard transcode.pays: an encode that saves less, or takes longer, than expected costs more than it saves
    encodes = (worth.EXPECTED_PROBES + 1) * terms.pace
    unlucky = at_presets([preset], kept.share * kept.factor, probes=encodes)[preset]
    expected, unlucky = (each._replace(requests_usd=terms.requests_usd) for each in (worths[preset], unlucky))
    if not unlucky.pays and not (terms.to_learn and unlucky.cost_microusd <= MOST_MICROUSD_TO_LEARN):
        return Refusal(transcode.PAYBACK, f"{unlucky.sentence()}. Tried again next month")
    return _Aim(preset, expected, first_crf.first_crf(terms.lessons, media, model, recipe.codec, preset))


class _Encodes:
    """The encodes of one video. Those that look good are kept on disk until one of them is chosen."""

    def __init__(self, source: Path, work: Path, media: Media, terms: Terms, aim: _Aim, permit: Permit) -> None:
        self._source, self._work, self._media, self._aim, self._permit = source, work, media, aim, permit
        self._terms, self._recipe, self._acceptance = terms, terms.recipe, terms.acceptance
        self.probes: list[crf.Probe] = []
        self.cpu_seconds = 0.0
        self._drafts: dict[float, _Draft] = {}  # by CRF
        self._cut_short = False  # ended only because its cost reached the limit

    def choose(self) -> _Draft | Refusal:
        """Search, and return the smallest acceptable encode, or why there is none."""
        try:
            draft = self._search()
        except NotAVideo as wrong:
            return Refusal("not_verified", str(wrong))
        except ToolMissing:
            raise
        except MediaError as error:
            # guard transcode.killed: an encode that needs more memory than there is, is paid and lost every night
            if self._terms.failures + 1 < _MAX_FAILURES:
                raise
            rule = "too_slow" if isinstance(error, MediaTimeout) else transcode.KILLED
            return Refusal(rule, f"{error}, as in {self._terms.failures} earlier runs")
        if draft is not None:
            refusal = transcode.accept(self._media, draft.media, draft.quality, self._recipe, self._acceptance)
            return refusal or draft
        if self._cut_short:
            spent = "today's limit for compression (compress_usd_per_day) is used up; a later plan tries again"
            if self._terms.to_learn:
                spent = f"{dollars(MOST_MICROUSD_TO_LEARN)}, the limit of a try, or {spent}"
            return Refusal("day_is_spent", f"{spent}. {self._why()}", permanent=False)
        return Refusal("no_good_result", self._why())

    def record(self, encoder: str, chosen: _Draft | Refusal) -> CrfSearch:
        """Describe the search for later ones."""
        media, real = self._media, self._aim.expected._replace(cpu_seconds=self.cpu_seconds)
        if isinstance(chosen, Refusal):
            kept, outcome = media.size_bytes, chosen.rule
            real = real._replace(saved_bytes=0, original_bytes=0, requests_usd=REQUESTS_USD)
        else:
            kept, outcome = chosen.media.size_bytes, "accepted"
            real = real._replace(saved_bytes=media.size_bytes - kept)
        return CrfSearch(
            encoder=encoder,
            preset=self._aim.preset,
            pixels=media.width * media.height,
            frames=media.frames,
            video_bits=media.video_bits,
            source_bytes=media.size_bytes,
            kept_bytes=kept,
            outcome=outcome,
            probes=tuple(self.probes),
            cpu_seconds=round(self.cpu_seconds, 3),
            days=real.days,
            gain_microusd=real.gain_microusd,
            cost_microusd=real.cost_microusd,
        )

    def _search(self) -> _Draft | None:
        """Encode and measure until `next_crf` ends the search. Raises NotAVideo when either end does not decode.

        A result chosen by a sample of its frames is compared again by all of them; if it fails
        then, the search goes on.
        """
        recipe, acceptance, first = self._recipe, self._acceptance, self._aim.first
        size, left = self._media.size_bytes, self._media.size_bytes - self._aim.expected.saved_bytes
        start = recipe.crf_start or crf.careful(first.crf, first.sd_crf, left, self._stakes(), recipe)
        while True:
            wanted = crf.next_crf(self.probes, size, recipe, acceptance, start, self._stakes())
            self._cut_short = wanted is not None and not self._affords_another()
            if wanted is not None and not self._cut_short:
                step = crf.frame_step(self.probes, self._media.frames, first.sd_crf, recipe, acceptance)
                self.probes.append(self._encode(wanted, step))
                continue
            found = crf.best(self.probes, size, acceptance)
            if found is None:
                return None
            draft = self._drafts[found.crf]
            if found.frame_step == 1:
                return draft
            self.probes[self.probes.index(found)] = self._compare(found, draft.path, draft.media, 1)

    def _affords_another(self) -> bool:
        """Check whether the search may go on, by what it has cost after its next encode."""
        after = self._aim.expected._replace(cpu_seconds=self.cpu_seconds + self._seconds_of_one())
        is_dear = self._terms.to_learn and after.cost_microusd > MOST_MICROUSD_TO_LEARN
        return not is_dear and self._permit.affords(after.cost_microusd)

    def _seconds_of_one(self) -> float:
        """Return the CPU seconds of one encode and its comparison."""
        if self.probes:
            return self.cpu_seconds / len(self.probes)
        return self._aim.expected.cpu_seconds / worth.EXPECTED_PROBES

    def _stakes(self) -> crf.Stakes:
        expected = self._aim.expected
        if expected.payback.cpu_usd_per_hour is None:
            found = crf.best(self.probes, self._media.size_bytes, self._acceptance)
            left = found.size_bytes if found else self._media.size_bytes - expected.saved_bytes
            return crf.Stakes(1.0, crf.FREE_SHARE * left)
        cost = expected.payback.cpu_usd(self._seconds_of_one())
        return crf.Stakes(expected.days * worth.USD_PER_BYTE_DAY, cost)

    def _encode(self, wanted: float, step: int) -> crf.Probe:
        draft = self._work / f"{wanted}.{self._recipe.container}"
        most = self._acceptance.most_bytes(self._media.size_bytes)
        encoding = ffmpeg.Encoding(self._recipe.codec, self._aim.preset, wanted, self._recipe.container)
        encoded = ffmpeg.encode(self._source, draft, self._media, encoding, most_bytes=most, watch=self._watch)
        self.cpu_seconds += encoded.cpu_seconds
        probe = crf.Probe(wanted, encoded.size_bytes)
        if not encoded.complete or encoded.size_bytes > most:
            draft.unlink(missing_ok=True)
            return probe
        result = ffmpeg.inspect(draft)
        if not encoded.frames == result.frames == self._media.frames:
            counts = f"{encoded.frames} frames encoded, {result.frames} written, {self._media.frames} in the source"
            raise NotAVideo(counts)
        return self._compare(probe, draft, result, step)

    def _compare(self, probe: crf.Probe, draft: Path, result: Media, step: int) -> crf.Probe:
        """Measure the quality of every `step`-th frame, and keep the encode if it looks good."""
        quality, cpu_seconds = ffmpeg.measure(draft, self._source, self._media, subsample=step, watch=self._watch)
        self.cpu_seconds += cpu_seconds
        probe = crf.Probe(probe.crf, probe.size_bytes, quality.mean, quality.p5, step)
        if crf.is_good(probe, self._media.size_bytes, self._acceptance):
            self._drafts[probe.crf] = _Draft(probe, draft, result, quality)
        else:
            draft.unlink()
        return probe

    def _watch(self, _: ffmpeg.Progress) -> bool:
        self._permit.check()
        return False

    def _why(self) -> str:
        acceptance = self._acceptance
        tried = "; ".join(
            f"CRF {p.crf:g}: more than {acceptance.most_bytes(self._media.size_bytes)} bytes"
            if p.mean is None or p.p5 is None
            else f"CRF {p.crf:g}: {p.size_bytes} bytes, VMAF mean {p.mean:.2f}, 5th percentile {p.p5:.2f}"
            for p in self.probes
        )
        return (
            f"no result at most {acceptance.max_size_percent:g} % of {self._media.size_bytes} bytes with VMAF of at "
            f"least {acceptance.min_vmaf_mean:g} (mean) and {acceptance.min_vmaf_p5:g} (5th percentile); {tried}"
        )
