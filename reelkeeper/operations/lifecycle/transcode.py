"""Make a video smaller without making it worse."""

import secrets
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import scratch_dir
from reelkeeper.errors import MediaTimeout, NotAVideo
from reelkeeper.model import Media, MediaLimits, Quality, Refusal, Transcode
from reelkeeper.rules.lifecycle import crf, transcode
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe, pays

Shrinker = Callable[[Path, Path], Transcode | Refusal]
_MAX_TIMEOUTS = 3  # runs in which a video took too long: a busy machine may be to blame once or twice


def shrink(
    source: Path,
    scratch: Path,
    recipe: Recipe,
    acceptance: Acceptance,
    *,
    limits: MediaLimits | None = None,
    remaining_days: int | None = None,
    progress: Callable[[], None] | None = None,
    timed_out: Callable[[], int] | None = None,
) -> Transcode | Refusal:
    """Search the smallest WebM of `source` that passes `acceptance`; leave it in the folder `scratch`.

    `remaining_days` is what is left of the video's life, for the payback gate. `progress` is called twice a second
    while a tool runs; whatever it raises ends the tool and is passed on. `timed_out` tells in how many runs before
    this one the video took too long: the third time is a Refusal. The same source and tools give the same bytes.
    Raises ToolMissing, and MediaTimeout or MediaError for what another try may mend; all else is a Refusal with its
    reason.
    """
    encoder = ffmpeg.tools().encoder(recipe.codec)
    mark = transcode.fingerprint(recipe, acceptance, encoder)
    try:
        media = ffmpeg.inspect(source, limits)
    except NotAVideo as wrong:
        return Refusal("not_a_video", str(wrong), mark)
    refusal = transcode.skip(media, recipe, mark) or pays(media, recipe.codec, recipe.payback, remaining_days, mark)
    if refusal:
        return refusal
    with scratch_dir(scratch) as work:
        search = _Search(source, work, media, recipe, acceptance, limits=limits, progress=progress)
        found = _found(search, acceptance, mark, timed_out)
        if isinstance(found, Refusal):
            return found
        probe, draft, result, quality = found
        if refusal := transcode.accept(media, result, quality, recipe, acceptance, mark=mark):
            return refusal
        final = scratch / f"{secrets.token_hex(8)}.webm"
        with draft.open("rb") as file:
            sha256 = file_digest(file, "sha256").hexdigest()
        draft.replace(final)
    measured = [p for p in search.probes if p.mean is not None]  # the rest outgrew the limit
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
    )


def _found(
    search: "_Search", acceptance: Acceptance, mark: str, timed_out: Callable[[], int] | None
) -> "tuple[crf.Probe, Path, Media, Quality] | Refusal":
    try:
        search.run()
    except NotAVideo as wrong:
        return Refusal("not_verified", str(wrong), mark)
    except MediaTimeout as slow:
        runs = 1 + (timed_out() if timed_out else 0)
        if runs < _MAX_TIMEOUTS:
            raise
        return Refusal("too_slow", f"{slow}, as in {runs - 1} runs before", mark)
    return search.chosen or Refusal("no_good_result", _why(search, acceptance), mark)


class _Search:
    """The encodes of one video, of which only the best so far is kept on disk."""

    def __init__(
        self,
        source: Path,
        work: Path,
        media: Media,
        recipe: Recipe,
        acceptance: Acceptance,
        *,
        limits: MediaLimits | None,
        progress: Callable[[], None] | None,
    ) -> None:
        self.source, self.work, self.media, self.progress = source, work, media, progress
        self.recipe, self.acceptance, self.limits = recipe, acceptance, limits
        self.probes: list[crf.Probe] = []
        self.chosen: tuple[crf.Probe, Path, Media, Quality] | None = None
        self.cpu_seconds = 0.0

    def run(self) -> None:
        """Encode and measure until the rule has seen enough. Raises NotAVideo when either end does not decode."""
        density, size = transcode.bits_per_pixel(self.media), self.media.size_bytes
        while (wanted := crf.next_crf(self.probes, size, density, self.recipe, self.acceptance)) is not None:
            draft = self.work / f"{wanted}.webm"
            probe, measured = self._probe(wanted, draft)
            self.probes.append(probe)
            if measured and probe == crf.best(self.probes, size, self.acceptance):
                if self.chosen:
                    self.chosen[1].unlink()
                self.chosen = (probe, draft, *measured)
            else:
                draft.unlink(missing_ok=True)

    def _probe(self, wanted: int, draft: Path) -> tuple[crf.Probe, tuple[Media, Quality] | None]:
        most = self.acceptance.most_bytes(self.media.size_bytes)
        encoded = ffmpeg.encode(
            self.source,
            draft,
            self.media,
            codec=self.recipe.codec,
            preset=self.recipe.effort,
            crf=wanted,
            most_bytes=most,
            limits=self.limits,
            watch=self._watch,
        )
        self.cpu_seconds += encoded.cpu_seconds
        if not encoded.complete or encoded.size_bytes > most:
            return crf.Probe(wanted, encoded.size_bytes), None
        result = ffmpeg.inspect(draft, self.limits)
        if not encoded.frames == result.frames == self.media.frames:
            counts = f"{encoded.frames} frames encoded, {result.frames} written, {self.media.frames} in the source"
            raise NotAVideo(counts)
        quality, cpu_seconds = ffmpeg.measure(draft, self.source, self.media, limits=self.limits, watch=self._watch)
        self.cpu_seconds += cpu_seconds
        return crf.Probe(wanted, encoded.size_bytes, quality.mean, quality.p5), (result, quality)

    def _watch(self, _: ffmpeg.Progress) -> bool:
        if self.progress:
            self.progress()
        return False


def _why(search: _Search, acceptance: Acceptance) -> str:
    tried = "; ".join(
        f"CRF {p.crf}: more than {acceptance.most_bytes(search.media.size_bytes)} bytes"
        if p.mean is None or p.p5 is None
        else f"CRF {p.crf}: {p.size_bytes} bytes, VMAF mean {p.mean:.2f}, 5th percentile {p.p5:.2f}"
        for p in search.probes
    )
    return (
        f"no result at most {acceptance.max_size_percent:g} % of {search.media.size_bytes} bytes with VMAF of at least "
        f"{acceptance.min_vmaf_mean:g} (mean) and {acceptance.min_vmaf_p5:g} (5th percentile); {tried}"
    )
