"""Encode a clip to MP4 or WebM: H.264 by x264, HEVC by x265, AV1 by SVT-AV1, or VP9 in two passes.

Audio in a codec that players of the container support is copied, all other becomes Opus. No scaling, no change of frame
rate, no denoising and no downmix. Every audio and subtitle stream and the tags are kept; data and timecode streams,
cover pictures and chapters are not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg

from reelkeeper.adapters.ffmpeg.boxes import carry
from reelkeeper.adapters.ffmpeg.command import confined, wall_seconds
from reelkeeper.adapters.ffmpeg.intake import admit, scratch_dir
from reelkeeper.adapters.ffmpeg.runner import Progress, Watch
from reelkeeper.adapters.ffmpeg.tools import TUNING
from reelkeeper.model import COPIED_SOUND, Media, MediaLimits

OPUS_LAYOUTS = {
    1: "mono",
    2: "stereo",
    3: "3.0",
    4: "quad",
    5: "5.0",
    6: "5.1",
    7: "6.1",
    8: "7.1",
}  # RFC 7845, 5.1.1.2
_OPUS_KBPS = {1: 64, 2: 96}  # and 48 more for each further channel: 288 for 5.1
_KEYFRAME_EVERY = 240  # frames; SVT-AV1's default of 161 costs bytes in clips of 5-30 s
_SUBTITLES = {"mp4": "mov_text", "webm": "webvtt"}
_TICKS_A_SECOND = 90_000  # of the clock of a stream in MP4: the time of a frame of 24, 25, 30 and 29.97 fps is exact
_ITUNES_TAGS = {  # of those that ffmpeg 9 writes into MP4 by itself, what clips have; any other goes with all of them
    *("title", "artist", "album_artist", "album", "composer", "date", "comment", "genre", "copyright"),
    *("grouping", "description", "synopsis", "keywords"),
}
# Tags that describe only the MP4 container.
_BLANKED = {"major_brand": "", "minor_version": "", "compatible_brands": ""}


@dataclass(frozen=True, slots=True)
class Encoding:
    """Settings of an encode.

    `codec` is h264 or hevc (preset 0 ultrafast to 9 placebo, CRF 1-51, halves too), av1 (preset 0-13, CRF 1-63) or vp9
    (preset is cpu-used 0-5, CRF 1-63); `container` is mp4 or webm.
    """

    codec: str
    preset: int
    crf: float
    container: str = "mp4"


@dataclass(frozen=True, slots=True)
class Encoded:
    """The cost and the result of one encode. `complete` is False where it was stopped for being too large."""

    size_bytes: int
    frames: int
    cpu_seconds: float
    complete: bool


def encode(
    source: Path,
    output: Path,
    media: Media,
    how: Encoding,
    *,
    most_bytes: int | None = None,
    watch: Watch | None = None,
) -> Encoded:
    """Encode `source`, described by `media`, to `output`; end early once it exceeds `most_bytes`.

    Raises NotAVideo where the source does not decode cleanly, MediaTimeout, or MediaError where the encoder crashed.
    `output` exists only when complete.
    """

    def enough(progress: Progress) -> bool:
        too_large = most_bytes is not None and (progress.size_bytes or 0) > most_bytes
        return too_large or (watch is not None and watch(progress))

    with scratch_dir(output.parent) as work:
        clip = admit(source, work, limits := MediaLimits())
        original, draft = ffmpeg.input(clip.url, threads=1, **clip.options(limits)), work / f"out.{how.container}"
        picture = original["V:0"]
        pixels = "yuv420p10le" if media.bit_depth > 8 else "yuv420p"  # noqa: PLR2004  bits
        # By default, ffmpeg rounds the time of each frame to the average rate.
        look: dict[str, Any] = {"fps_mode": "passthrough", "enc_time_base": "1:90000", "pix_fmt": pixels}
        look |= _SETTINGS[how.codec](how.preset, how.crf)
        spent, ceiling = 0.0, max(64 << 20, 2 * media.size_bytes)
        if how.codec == "vp9":
            first = ffmpeg.output(picture, "-", f="null", **look, **{"pass": 1})
            spent += confined(first, work, wall_seconds(media), watch, ceiling).check("first pass").cpu_seconds
            look["pass"] = 2
        streams = [picture, *([original["a"]] if media.audio else []), *([original["s"]] if media.subtitles else [])]
        beside = _beside(media, how.container) | _tags(media)
        if how.container == "mp4":
            beside |= {"movflags": _movflags(media), "video_track_timescale": _TICKS_A_SECOND}
        spec = ffmpeg.output(*streams, f"file:{draft}", f=how.container, **look, **beside)
        ended = confined(spec, work, wall_seconds(media), enough, ceiling)
        spent += ended.cpu_seconds
        if ended.stopped:
            return Encoded(draft.stat().st_size if draft.exists() else 0, ended.frames, spent, complete=False)
        ended.check("encode")
        if how.container == "mp4" and media.carried_boxes:
            # guard transcode.carried_boxes: the label that a clip was made by AI is lost
            carry(clip.path, draft)
        size = draft.stat().st_size
        draft.replace(output)
        return Encoded(size, ended.frames, spent, complete=True)


def _h264(preset: int, crf: float) -> dict[str, Any]:
    return {
        "c:v": "libx264",
        "preset": preset,
        "crf": crf,
        "g": _KEYFRAME_EVERY,
        "threads": 1,
        "x264-params": TUNING["h264"],
    }


def _hevc(preset: int, crf: float) -> dict[str, Any]:
    # hvc1: Apple's players accept parameter sets only in the header. One thread gives the same bytes each time.
    quiet = "pools=none:frame-threads=1:log-level=error"
    return {
        "c:v": "libx265",
        "preset": preset,
        "crf": crf,
        "g": _KEYFRAME_EVERY,
        "x265-params": quiet,
        "tag:v": "hvc1",
    }


def _av1(preset: int, crf: float) -> dict[str, Any]:
    # lp=1: one clip per core at a time needs 11-17 % less CPU per clip than one clip on all cores.
    return {"c:v": "libsvtav1", "preset": preset, "crf": crf, "g": _KEYFRAME_EVERY, "svtav1-params": "lp=1"}


def _vp9(preset: int, crf: float) -> dict[str, Any]:
    return {
        "c:v": "libvpx-vp9",
        "b:v": 0,
        "crf": crf,
        "deadline": "good",
        "cpu-used": preset,
        "row-mt": 1,
        "tile-columns": 1,
        "threads": 1,
        "g": _KEYFRAME_EVERY,
        "passlogfile": "pass",  # in the folder where ffmpeg runs
    }


_SETTINGS = {"h264": _h264, "hevc": _hevc, "av1": _av1, "vp9": _vp9}


def _beside(media: Media, container: str) -> dict[str, Any]:
    """Copy audio that players support, else encode Opus, its bitrate by its channels; copy or convert subtitles."""
    text = _SUBTITLES[container]
    options: dict[str, Any] = {
        f"c:s:{index}": "copy" if stream.codec == text else text for index, stream in enumerate(media.subtitles)
    }
    for index, stream in enumerate(media.audio):
        if stream.codec in COPIED_SOUND[container]:
            options[f"c:a:{index}"] = "copy"
            continue
        channels = stream.channels or 2
        options[f"c:a:{index}"] = "libopus"
        options[f"b:a:{index}"] = f"{_OPUS_KBPS.get(channels, 48 * channels)}k"
        # libopus accepts 5.1 but not 5.1(side), and so on: name the layout that it knows for that many channels.
        options[f"filter:a:{index}"] = f"aformat=channel_layouts={OPUS_LAYOUTS[channels]}"
    return options


def _tags(media: Media) -> dict[str, Any]:
    """Keep the tags, and creation_time, which ffmpeg would drop; bitexact: the same source gives the same bytes."""
    tags = _BLANKED | ({"creation_time": media.creation_time} if media.creation_time else {})
    named = {f"metadata:g:{index}": f"{key}={value}" for index, (key, value) in enumerate(tags.items())}
    return {"map_metadata": 0, "map_chapters": -1, "dn": None, "fflags": "+bitexact", **named}


def _movflags(media: Media) -> str:
    """Put the index first, so that a player can begin before the whole file has arrived.

    Most players read iTunes' list of tags. Names that it lacks, such as ComfyUI's `prompt` and `workflow`, are kept
    only in QuickTime's list, and a file has one of the two.
    """
    other = {name.casefold() for name, _ in media.tags} - _ITUNES_TAGS
    return "+faststart+use_metadata_tags" if other else "+faststart"
