"""Measure a result against its source by VMAF and the PSNR of its chroma planes, and check that both decode."""

import json
import statistics
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg

from reelkeeper.adapters.ffmpeg.command import confined, wall_seconds
from reelkeeper.adapters.ffmpeg.intake import admit, scratch_dir
from reelkeeper.adapters.ffmpeg.probe import inspect
from reelkeeper.adapters.ffmpeg.runner import Watch
from reelkeeper.adapters.ffmpeg.tools import tools
from reelkeeper.errors import NotAVideo, ToolMissing
from reelkeeper.model import Media, MediaLimits, Quality

_MODEL, _MODEL_4K = "vmaf_v0.6.1", "vmaf_4k_v0.6.1"
_ABOVE_1440P = 2560 * 1440
_TICKS = 40_000  # between two frames, in microseconds: any constant that the muxer uses as well


def measure(
    distorted: Path,
    reference: Path,
    media: Media,
    *,
    subsample: int = 1,
    watch: Watch | None = None,
) -> tuple[Quality, float]:
    """Compare every `subsample`-th frame of `distorted` with `reference`, described by `media`; with CPU seconds.

    Frames are paired by their index: WebM rounds timestamps to milliseconds, and pairing by time then compares
    neighbours (measured: 95.0 becomes 79.4 at 24 fps). Both must therefore have `media.frames` frames.
    Raises ToolMissing without libvmaf, NotAVideo if either file fails to decode, a frame was not compared or libvmaf
    crashed, as it does on some input. None of these ever counts as a pass.
    """
    if not tools().measures_quality:
        raise ToolMissing(
            f"{tools().ffmpeg} ({tools().ffmpeg_version}) has no libvmaf, so no result can be accepted: unset "
            "REELKEEPER_FFMPEG to use the wheel's"
        )
    model = _MODEL_4K if media.width * media.height > _ABOVE_1440P else _MODEL
    pixels = "yuv420p10le" if media.bit_depth > 8 else "yuv420p"  # noqa: PLR2004  bits
    with scratch_dir() as work:
        limits, sides = MediaLimits(), []
        for name, path in (("distorted", distorted), ("reference", reference)):
            clip = admit(path, work, limits, name)
            picture = ffmpeg.input(clip.url, threads=1, **clip.options(limits))["V:0"]
            indexed = picture.filter("settb", "AVTB").filter("setpts", f"N*{_TICKS}")
            sides.append(indexed.filter("format", pixels))
        compared = ffmpeg.filter(
            sides,
            "libvmaf",
            model=f"version={model}",
            feature="name=psnr",  # of U and V too, which VMAF ignores
            n_threads=1,
            n_subsample=subsample,
            log_fmt="json",
            log_path="vmaf.json",  # in the folder where ffmpeg runs
        )
        spec = ffmpeg.output(compared, "-", f="null", fps_mode="passthrough", enc_time_base="1:1000000")
        ended = confined(spec, work, wall_seconds(media), watch).check("quality")
        frames = json.loads((work / "vmaf.json").read_text())["frames"]
    scores, *chroma = ([float(frame["metrics"][name]) for frame in frames] for name in ("vmaf", "psnr_cb", "psnr_cr"))
    expected = -(-media.frames // subsample)
    if len(scores) != expected or ended.frames != media.frames:
        raise NotAVideo(f"quality: {len(scores)} of {expected} frames compared, {ended.frames} of {media.frames} seen")
    p5 = statistics.quantiles(scores, n=20, method="inclusive")[0] if len(scores) > 1 else scores[0]
    chroma_db = min(statistics.fmean(plane) for plane in chroma)
    quality = Quality(model, statistics.fmean(scores), p5, min(scores), chroma_db, len(scores), subsample)
    return quality, ended.cpu_seconds


@dataclass(frozen=True, slots=True)
class Decoded:
    """The result of a complete decode: the number of video frames, and their actual duration, from the first one on."""

    frames: int
    duration_seconds: float
    cpu_seconds: float


def decode(path: Path, media: Media | None = None, limits: MediaLimits | None = None) -> Decoded:
    """Decode every frame and sample of `path`, described by `media`. Its first error raises NotAVideo."""
    limits = limits or MediaLimits()
    media = media or inspect(path, limits)
    with scratch_dir() as work:
        clip = admit(path, work, limits)
        source, log = ffmpeg.input(clip.url, threads=1, **clip.options(limits)), work / "frames.txt"
        streams = [source["V:0"], *([source["a"]] if media.audio else [])]
        spec = ffmpeg.output(*streams, f"file:{log}", f="framecrc", fps_mode="passthrough")
        ended = confined(spec, work, wall_seconds(media)).check("decode")
        return _decoded(log.read_text(), ended.cpu_seconds)


def _decoded(log: str, cpu_seconds: float) -> Decoded:
    """Parse ffmpeg's framecrc format: `#tb 0: 1/1000`, then `stream, dts, pts, duration, size, crc` for each frame."""
    tick, frames = 0.0, list[tuple[int, int]]()  # of each frame, when it begins and ends
    for line in log.splitlines():
        if line.startswith("#tb 0: "):
            tick = float(Fraction(line[7:]))
        elif not line.startswith("#"):
            stream, _, start, lasts, *_ = (part.strip() for part in line.split(","))
            if stream == "0":
                frames.append((int(start), int(start) + int(lasts)))
    # guard publish.late_picture: a video whose picture begins after its sound is never stored: it seems too long
    begins = min(frames)[0] if frames else 0
    ends = max(frames)[1] if frames else 0  # of the last one shown: in MP4, others before a pause may seem to last on
    return Decoded(len(frames), (ends - begins) * tick, cpu_seconds)
