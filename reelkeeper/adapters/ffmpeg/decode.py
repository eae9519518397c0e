"""What a file really holds: every frame and sample of it, decoded."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg

from reelkeeper.adapters.ffmpeg.command import call
from reelkeeper.adapters.ffmpeg.intake import admit, scratch_dir
from reelkeeper.adapters.ffmpeg.probe import inspect
from reelkeeper.model import Media, MediaLimits


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came out of a complete decode: video frames, and how long each stream really lasts."""

    frames: int
    duration_seconds: float
    audio_seconds: tuple[float, ...]
    cpu_seconds: float


def decode(path: Path, media: Media | None = None, limits: MediaLimits | None = None) -> Decoded:
    """Decode every frame and sample of `path`, described by `media`. Its first error raises NotAVideo."""
    limits = limits or MediaLimits()
    media = media or inspect(path, limits)
    with scratch_dir() as work:
        clip = admit(path, work, limits)
        whole, log = ffmpeg.input(clip.url, threads=1, **clip.options(limits)), work / "frames.txt"
        streams = [whole["V:0"], *([whole["a"]] if media.audio else [])]
        ended = call(ffmpeg.output(*streams, f"file:{log}", f="framecrc", fps_mode="passthrough"), work, media).check(
            "decode"
        )
        return _decoded(log.read_text(), ended.cpu_seconds)


def _decoded(log: str, cpu_seconds: float) -> Decoded:
    """Read ffmpeg's framecrc format: `#tb 0: 1/1000`, then `stream, dts, pts, duration, size, crc` for each frame."""
    ticks: dict[int, float] = {}
    ends: dict[int, float] = {}
    frames = 0
    for line in log.splitlines():
        if line.startswith("#tb "):
            stream, _, base = line[4:].partition(": ")
            ticks[int(stream)] = float(Fraction(base))
        elif not line.startswith("#"):
            index, _, start, lasts, *_ = (part.strip() for part in line.split(","))
            stream_index = int(index)
            frames += stream_index == 0
            ends[stream_index] = max(ends.get(stream_index, 0.0), (int(start) + int(lasts)) * ticks[stream_index])
    return Decoded(frames, ends.pop(0, 0.0), tuple(ends[stream] for stream in sorted(ends)), cpu_seconds)
