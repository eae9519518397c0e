"""Search an encode that is smaller than its source and as good."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Final

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import scratch_dir
from reelkeeper.errors import MediaTimeout, NotAVideo
from reelkeeper.model import CrfSearch, Media, Quality, Refusal, Transcode
from reelkeeper.rules.lifecycle import crf, first_crf, transcode, worth
from reelkeeper.rules.lifecycle.first_crf import Lesson
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.lifecycle.worth import Worth

Shrinker = Callable[[Path, Path], Transcode | Refusal]
_MAX_TIMEOUTS = 3  # runs in which a video timed out: once or twice may be due to a busy machine


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Facts about the video of a search, and its callbacks. By default there are none."""

    remaining_days: int | None = None  # of the video's life: an encode must be worth its CPU by then
    model: str | None = None  # the generator of the clip
    aside_usd: float = 0.0  # the cost of the original's copy, where the result replaces it in place
    lessons: Callable[[str], Sequence[Lesson]] = lambda _encoder: ()  # earlier results with an encoder
    affords: Callable[[int], bool] = lambda _microusd: True  # called before each encode, with the total cost by its end
    note: Callable[[CrfSearch], None] = lambda _search: None  # called with the result, also for a Refusal
    progress: Callable[[], None] = lambda: None  # called twice a second while a tool runs; its error ends the tool
    timed_out: Callable[[], int] = lambda: 0  # the number of earlier runs in which the video timed out


UNKNOWN: Final = Circumstances()


def shrink(
    source: Path, scratch: Path, recipe: Recipe, acceptance: Acceptance, known: Circumstances = UNKNOWN
) -> Transcode | Refusal:
    """Search the smallest encode of `source` that passes `acceptance`; leave it in the folder `scratch`.

    The same source, tools and lessons give the same bytes. Raises ToolMissing, and MediaTimeout or MediaError where
    another try may succeed, except for the third MediaTimeout; anything else is a Refusal with its reason.
    """
    mark = transcode.fingerprint(recipe, acceptance, ffmpeg.tools().encoder(recipe.codec))
    try:
        media = ffmpeg.inspect(source)
    except NotAVideo as wrong:
        return Refusal("not_a_video", str(wrong), mark)
    found = _shrunk(source, scratch, media, recipe, acceptance, known, mark)
    return replace(found, codec=media.codec) if isinstance(found, Refusal) else found


def _shrunk(
    source: Path, scratch: Path, media: Media, recipe: Recipe, acceptance: Acceptance, known: Circumstances, mark: str
) -> Transcode | Refusal:
    encoder = ffmpeg.tools().encoder(recipe.codec)
    if refusal := transcode.skip(media, recipe, mark):
        return refusal
    learnt, model, remaining_days = known.lessons(encoder), known.model, known.remaining_days
    kept = first_crf.kept_share(learnt, model, recipe.codec, worth.EXPECTED_SHARE, transcode.bits_per_pixel(media))
    at_presets = partial(worth.at_presets, media, recipe.codec, payback=recipe.payback, remaining_days=remaining_days)
    worths = at_presets(recipe.presets, kept.share)
    preset = worth.choose(worths, recipe.codec)
    # guard transcode.pays: an encode that saves less, or takes longer, than expected costs more than it saves
    unlucky = at_presets([preset], kept.share * kept.factor, probes=worth.EXPECTED_PROBES + 1)[preset]
    expected, unlucky = (each._replace(aside_usd=known.aside_usd) for each in (worths[preset], unlucky))
    if not unlucky.pays:
        return Refusal(transcode.PAYBACK, f"{unlucky.sentence()}. Tried again next month", mark)
    first = first_crf.first_crf(learnt, media, model, recipe.codec, preset)
    with scratch_dir(scratch) as work:
        search = _Search(source, work, media, recipe, acceptance, preset, known)
        found = _found(search, first, expected, mark)
        if not isinstance(found, Refusal):
            probe, draft, result, quality = found
            found = transcode.accept(media, result, quality, recipe, acceptance, mark=mark) or found
        if search.probes:
            known.note(_searched(search, encoder, found, expected))
        if isinstance(found, Refusal):
            return found
        final = scratch / f"{secrets.token_hex(8)}.{recipe.container}"
        with draft.open("rb") as file:
            sha256 = file_digest(file, "sha256").hexdigest()
        draft.replace(final)
    measured = [p for p in search.probes if p.mean is not None]  # the rest exceeded the size limit
    return Transcode(
        path=str(final),
        size_bytes=result.size_bytes,
        sha256=sha256,
        media=result,
        quality=quality,
        crf=probe.crf,
        recipe=mark,
        encoder=encoder,
        probes=tuple((p.crf, p.mean or 0.0, p.p5 or 0.0, p.size_bytes) for p in measured),
        cpu_seconds=search.cpu_seconds,
        source_codec=media.codec,
    )


Found = tuple[crf.Probe, Path, Media, Quality]


def _found(search: "_Search", first: first_crf.FirstCrf, expected: Worth, mark: str) -> Found | Refusal:
    try:
        search.run(first, expected)
    except NotAVideo as wrong:
        return Refusal("not_verified", str(wrong), mark)
    except MediaTimeout as slow:
        runs = 1 + search.known.timed_out()
        if runs < _MAX_TIMEOUTS:
            raise
        return Refusal("too_slow", f"{slow}, as in {runs - 1} earlier runs", mark)
    if search.chosen is None and search.cut_short:
        why = (
            f"today's limit for compression (compress_usd_per_day) is used up; a later plan tries again. {_why(search)}"
        )
        return Refusal("day_is_spent", why, mark, permanent=False)
    return search.chosen or Refusal("no_good_result", _why(search), mark)


class _Search:
    """The encodes of one video. Those that look good are kept on disk until one of them is chosen."""

    def __init__(
        self,
        source: Path,
        work: Path,
        media: Media,
        recipe: Recipe,
        acceptance: Acceptance,
        preset: int,
        known: Circumstances,
    ) -> None:
        self.source, self.work, self.media, self.known = source, work, media, known
        self.recipe, self.acceptance, self.preset = recipe, acceptance, preset
        self.probes: list[crf.Probe] = []
        self.chosen: Found | None = None
        self.cut_short = False  # ended only because its cost reached the limit
        self.cpu_seconds = 0.0
        self._results: dict[float, tuple[Path, Media, Quality]] = {}  # by CRF

    def run(self, first: first_crf.FirstCrf, expected: Worth) -> None:
        """Encode and measure until `next_crf` ends the search. Raises NotAVideo when either end does not decode.

        A result chosen by a sample of its frames is compared again by all of them; if it fails
        then, the search goes on.
        """
        size, left = self.media.size_bytes, self.media.size_bytes - expected.saved_bytes
        start = self.recipe.crf_start or crf.careful(first.crf, first.sd_crf, left, self._stakes(expected), self.recipe)
        while True:
            wanted = crf.next_crf(self.probes, size, self.recipe, self.acceptance, start, self._stakes(expected))
            self.cut_short = wanted is not None and not self._may_go_on(expected)
            if wanted is not None and not self.cut_short:
                step = crf.frame_step(self.probes, self.media.frames, first.sd_crf, self.recipe, self.acceptance)
                self.probes.append(self._probe(wanted, step))
                continue
            found = crf.best(self.probes, size, self.acceptance)
            if found is None:
                return
            draft, result, quality = self._results[found.crf]
            if found.frame_step == 1:
                self.chosen = (found, draft, result, quality)
                return
            self.probes[self.probes.index(found)] = self._compared(found, draft, result, 1)

    def _may_go_on(self, expected: Worth) -> bool:
        in_all = self.cpu_seconds + self._one_encode(expected)
        return self.known.affords(expected._replace(cpu_seconds=in_all).cost_microusd)

    def _one_encode(self, expected: Worth) -> float:
        """Return the CPU seconds of one encode and its comparison."""
        if self.probes:
            return self.cpu_seconds / len(self.probes)
        return expected.cpu_seconds / worth.EXPECTED_PROBES

    def _stakes(self, expected: Worth) -> crf.Stakes:
        if expected.payback.cpu_usd_per_hour is None:
            found = crf.best(self.probes, self.media.size_bytes, self.acceptance)
            left = found.size_bytes if found else self.media.size_bytes - expected.saved_bytes
            return crf.Stakes(1.0, crf.FREE_SHARE * left)
        return crf.Stakes(expected.days * worth.USD_PER_BYTE_DAY, expected.payback.cpu_usd(self._one_encode(expected)))

    def _probe(self, wanted: float, step: int) -> crf.Probe:
        draft = self.work / f"{wanted}.{self.recipe.container}"
        most = self.acceptance.most_bytes(self.media.size_bytes)
        encoded = ffmpeg.encode(
            self.source,
            draft,
            self.media,
            ffmpeg.Encoding(self.recipe.codec, self.preset, wanted, self.recipe.container),
            most_bytes=most,
            watch=self._watch,
        )
        self.cpu_seconds += encoded.cpu_seconds
        if not encoded.complete or encoded.size_bytes > most:
            draft.unlink(missing_ok=True)
            return crf.Probe(wanted, encoded.size_bytes)
        result = ffmpeg.inspect(draft)
        if not encoded.frames == result.frames == self.media.frames:
            counts = f"{encoded.frames} frames encoded, {result.frames} written, {self.media.frames} in the source"
            raise NotAVideo(counts)
        return self._compared(crf.Probe(wanted, encoded.size_bytes), draft, result, step)

    def _compared(self, probe: crf.Probe, draft: Path, result: Media, step: int) -> crf.Probe:
        quality, cpu_seconds = ffmpeg.measure(draft, self.source, self.media, subsample=step, watch=self._watch)
        self.cpu_seconds += cpu_seconds
        probe = crf.Probe(probe.crf, probe.size_bytes, quality.mean, quality.p5, step)
        if crf.is_good(probe, self.media.size_bytes, self.acceptance):
            self._results[probe.crf] = draft, result, quality
        else:
            draft.unlink()
        return probe

    def _watch(self, _: ffmpeg.Progress) -> bool:
        self.known.progress()
        return False


def _searched(search: _Search, encoder: str, found: Found | Refusal, expected: Worth) -> CrfSearch:
    media = search.media
    kept = media.size_bytes if isinstance(found, Refusal) else found[2].size_bytes
    aside = 0.0 if isinstance(found, Refusal) else expected.aside_usd
    real = expected._replace(saved_bytes=media.size_bytes - kept, cpu_seconds=search.cpu_seconds, aside_usd=aside)
    return CrfSearch(
        encoder=encoder,
        preset=search.preset,
        pixels=media.width * media.height,
        frames=media.frames,
        video_bits=media.video_bits,
        source_bytes=media.size_bytes,
        kept_bytes=kept,
        outcome=found.rule if isinstance(found, Refusal) else "accepted",
        probes=tuple(search.probes),
        cpu_seconds=round(search.cpu_seconds, 3),
        days=real.days,
        gain_microusd=real.gain_microusd,
        cost_microusd=real.cost_microusd,
    )


def _why(search: _Search) -> str:
    acceptance = search.acceptance
    tried = "; ".join(
        f"CRF {p.crf:g}: more than {acceptance.most_bytes(search.media.size_bytes)} bytes"
        if p.mean is None or p.p5 is None
        else f"CRF {p.crf:g}: {p.size_bytes} bytes, VMAF mean {p.mean:.2f}, 5th percentile {p.p5:.2f}"
        for p in search.probes
    )
    return (
        f"no result at most {acceptance.max_size_percent:g} % of {search.media.size_bytes} bytes with VMAF of at least "
        f"{acceptance.min_vmaf_mean:g} (mean) and {acceptance.min_vmaf_p5:g} (5th percentile); {tried}"
    )
