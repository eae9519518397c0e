"""Describe a file with ffprobe; frames and bytes are counted packet by packet."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reelkeeper.adapters.ffmpeg.boxes import Metadata, metadata
from reelkeeper.adapters.ffmpeg.intake import Clip, admit, has_index_first, scratch_dir
from reelkeeper.adapters.ffmpeg.runner import run
from reelkeeper.adapters.ffmpeg.sandbox import Bounds
from reelkeeper.adapters.ffmpeg.tools import tools
from reelkeeper.errors import NotAVideo
from reelkeeper.model import Media, MediaLimits, Stream

_ENTRIES = (
    "format=format_name,duration,start_time:format_tags:stream=index,codec_type,codec_name,codec_tag_string,profile,width,"
    "height,pix_fmt,sample_aspect_ratio,bits_per_raw_sample,duration,start_time,avg_frame_rate,field_order,color_range,"
    "color_space,color_primaries,color_transfer,channels,channel_layout:stream_disposition=attached_pic:stream_tags=DURATION,"
    "alpha_mode:stream_side_data=rotation,side_data_type:packet=stream_index,pts_time,duration_time,size,flags"
)
_ALPHA = re.compile(r"^(yuva|rgba|bgra|argb|abgr|gbrap|ya\d)")
_FIRST_FRAME = ("-select_streams", "V:0", "-read_intervals", "%+#1", "-show_entries")
_FRAME = "frame=interlaced_frame,top_field_first:frame_side_data=side_data_type"
_SAMPLED = re.compile(r"4[0-4][0-4]")
# Reading speed, an encoder's settings, the crop for TV sets of 4:3, timecodes, which are not kept, and, of a frame, the
# rotation that its stream tells too.
_NO_MATTER = {"CPB properties", "H.26[45] User Data Unregistered SEI message", "AVPanScan", "3x3 displaymatrix"}
_NO_MATTER |= {"GOP timecode", "SMPTE 12-1 timecode"}
_OF_THE_CONTAINER = {"major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "duration"}
_RIGHT_ANGLE = 90
_EMPTY_CUE_BYTES = 2  # in MP4, a pause between two subtitles is a sample with no text but its length
_DEPTH = re.compile(r"p?(9|10|12|14|16)(le|be)$")


def inspect(path: Path, limits: MediaLimits | None = None) -> Media:
    """Describe `path`. Raises NotAVideo if it is not a video, or exceeds `limits`."""
    limits = limits or MediaLimits()
    with scratch_dir() as work:
        clip = admit(path, work, limits)
        answer = _ask(clip, work, limits, "-show_packets", "-show_entries", _ENTRIES)
        media = _within(_media(answer, clip), limits)
        return _with_first_frame(media, _ask(clip, work, limits, *_FIRST_FRAME, _FRAME))


def _ask(clip: Clip, work: Path, limits: MediaLimits, *questions: str) -> Mapping[str, Any]:
    options = [part for name, value in clip.options(limits).items() for part in (f"-{name}", str(value))]
    argv = [tools().ffprobe, "-v", "error", *options, *questions, "-of", "json=c=1", clip.url]
    ended = run(argv, scratch_dir=work, bounds=Bounds(), walls=tools().walls)
    answer: Mapping[str, Any] = json.loads(ended.check("ffprobe", complaints=True).output)
    return answer


def _media(answer: Mapping[str, Any], clip: Clip) -> Media:
    streams = answer.get("streams", [])
    videos = [s for s in streams if s.get("codec_type") == "video" and not s["disposition"]["attached_pic"]]
    if not videos:
        raise NotAVideo("it has no video stream" + (", only sound" if streams else ""))
    video = videos[0]
    packets = answer.get("packets", [])
    of_video = [p for p in packets if p["stream_index"] == video["index"]]
    shown = [p for p in of_video if "D" not in p["flags"]]  # D: cut away by an edit list
    begins = _number(video.get("start_time")) or 0.0
    frames = len(shown)
    # guard intake.unstated_length: a video is refused whose container states no length, or less than its frames take
    whole = _number(answer["format"].get("duration")) or 0.0  # of the longest stream, such as the sound
    stated = _seconds(video) or (whole if len(streams) == 1 else 0.0)
    duration = max(stated, _lasts(shown)) or whole
    width, height = video.get("width", 0), video.get("height", 0)
    aspect = width / max(height, 1) * _ratio(video.get("sample_aspect_ratio", "1:1"), ":", otherwise=1.0)
    if round(_rotation(video) / 90) % 2:
        width, height, aspect = height, width, 1 / max(aspect, 1e-9)
    pixel_format = video.get("pix_fmt", "")
    depth = _DEPTH.search(pixel_format)
    named = answer["format"].get("tags", {})
    boxes = metadata(clip.path, {name.lower() for name in named}) if clip.container == "mov" else Metadata()
    return Media(
        container=clip.container,
        codec=video.get("codec_name", "unknown"),
        profile=video.get("profile"),
        width=width,
        height=height,
        display_aspect=aspect,
        pixel_format=pixel_format,
        bit_depth=int(depth[1]) if depth else 8,
        has_alpha=bool(_ALPHA.match(pixel_format)) or video.get("tags", {}).get("alpha_mode") == "1",
        frames=frames,
        duration_seconds=duration,
        start_seconds=begins,
        video_bits=8 * sum(int(p["size"]) for p in of_video),
        size_bytes=clip.size_bytes,
        color_range=_known(video.get("color_range")),
        color_space=_known(video.get("color_space")),
        color_primaries=_known(video.get("color_primaries")),
        color_transfer=_known(video.get("color_transfer")),
        content_credentials=boxes.has_c2pa,
        carried_boxes=boxes.carried,
        lost_boxes=boxes.lost,
        creation_time=named.get("creation_time"),
        tags=_tags(named),
        codec_tag=video.get("codec_tag_string", ""),
        index_first=has_index_first(clip),
        audio=tuple(_stream(s) for s in streams if s.get("codec_type") == "audio"),
        subtitles=tuple(
            replace(_stream(s), cues_ms=_cues(s, packets, begins)) for s in streams if s.get("codec_type") == "subtitle"
        ),
        frame_rate=frames / duration if duration else _ratio(video.get("avg_frame_rate", "0/0"), "/", otherwise=0.0),
        streams=len(streams),
        video_streams=len(videos),
        chroma=_chroma(pixel_format),
        field_order=_known(video.get("field_order")) or "unknown",
        shown_at_ms=_times(shown),
        side_data=_side_data(video),
    )


def _with_first_frame(media: Media, answer: Mapping[str, Any]) -> Media:
    """Add what is told by frames alone: closed captions, HDR10+, and the fields of MPEG-4 part 2."""
    fields = _fields(answer) if media.field_order == "unknown" else media.field_order
    # guard transcode.frame_side_data: captions in the picture are lost, as is what says that it is stereo 3D
    found = {kind for frame in answer.get("frames", []) for kind in _kinds(frame)}
    return replace(media, field_order=fields, side_data=tuple(sorted({*media.side_data, *found})))


def _tags(found: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the tags of the file by lower-case name, since Matroska writes them in capitals."""
    lowered = {name.lower(): value for name, value in found.items()}
    return tuple(sorted((name, value) for name, value in lowered.items() if name not in _OF_THE_CONTAINER))


def _chroma(pixel_format: str) -> str:
    """Return the chroma subsampling, such as 4:2:0, or the pixel format if it has no such name."""
    if pixel_format.startswith(("gray", "mono")):
        return "gray"
    if pixel_format.startswith(("nv12", "nv21", "p01")):
        return "4:2:0"
    sampled = _SAMPLED.search(pixel_format)
    return ":".join(sampled[0]) if sampled else pixel_format or "unknown"


def _times(packets: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """List each frame's presentation time, in milliseconds after the first; packets come in decoding order."""
    seconds = sorted(at for packet in packets if (at := _number(packet.get("pts_time"))) is not None)
    return tuple(round(1000 * (at - seconds[0])) for at in seconds) if len(seconds) == len(packets) else ()


def _lasts(packets: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds from the beginning of the first frame shown to the end of the last, as their packets say."""
    spans = [
        (at, at + (_number(packet.get("duration_time")) or 0.0))
        for packet in packets
        if (at := _number(packet.get("pts_time"))) is not None
    ]
    return max(spans)[1] - min(spans)[0] if spans else 0.0


def _fields(answer: Mapping[str, Any]) -> str:
    """Return how a frame is interlaced."""
    for frame in answer.get("frames", []):
        if frame.get("interlaced_frame") == 1:
            return "tt" if frame.get("top_field_first") else "bb"
        if frame.get("interlaced_frame") == 0:
            return "progressive"
    return "unknown"


def _side_data(video: Mapping[str, Any]) -> tuple[str, ...]:
    """List the picture's side data, except a rotation by right angles, which is applied to the result."""
    applied = {"Display Matrix"} if _rotation(video) % _RIGHT_ANGLE == 0 else set[str]()
    return tuple(sorted(_kinds(video) - applied))


def _kinds(told: Mapping[str, Any]) -> set[str]:
    return {str(part.get("side_data_type")) for part in told.get("side_data_list", [])} - _NO_MATTER


def _within(media: Media, limits: MediaLimits) -> Media:
    sides = sorted((media.width, media.height))
    figures = (
        ("pixels a frame", media.width * media.height, 1, limits.max_pixels),
        ("pixels, its shorter side,", sides[0], limits.min_side, limits.max_side),
        ("pixels, its longer side,", sides[1], limits.min_side, limits.max_side),
        ("seconds", media.duration_seconds, limits.min_duration_seconds, limits.max_duration_seconds),
        ("frames", media.frames, 1, limits.max_frames),
        ("frames a second", media.frame_rate, 0, limits.max_frame_rate),
        ("streams", media.streams, 1, limits.max_streams),
    )
    for what, value, least, most in figures:
        # guard intake.limits: a file with too many frames blocks a worker for days
        if not least <= value <= most:  # NaN is refused as well
            raise NotAVideo(f"{value:g} {what}; allowed are {least:g} to {most:g}")
    return media


def _stream(stream: Mapping[str, Any]) -> Stream:
    return Stream(
        kind=stream["codec_type"],
        codec=stream.get("codec_name", "unknown"),
        duration_seconds=_seconds(stream),
        channels=stream.get("channels"),
        channel_layout=stream.get("channel_layout"),
        start_seconds=_number(stream.get("start_time")) or 0.0,
    )


def _cues(
    stream: Mapping[str, Any], packets: Sequence[Mapping[str, Any]], begins: float
) -> tuple[tuple[int, int], ...]:
    """List from when until when each subtitle is shown, in milliseconds after the picture `begins`."""
    least = _EMPTY_CUE_BYTES if stream.get("codec_name") == "mov_text" else 0
    texts = [p for p in packets if p["stream_index"] == stream["index"] and int(p["size"]) > least]
    spans = [(_number(p.get("pts_time")) or 0.0, _number(p.get("duration_time")) or 0.0) for p in texts]
    return tuple(sorted((round(1000 * (at - begins)), round(1000 * (at - begins + lasts))) for at, lasts in spans))


def _seconds(stream: Mapping[str, Any]) -> float | None:
    """Return a stream's duration in seconds. Matroska has it in a tag, as hours:minutes:seconds."""
    if (plain := _number(stream.get("duration"))) is not None:
        return plain
    parts = stream.get("tags", {}).get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds - max(0.0, _number(stream.get("start_time")) or 0.0)


def _rotation(stream: Mapping[str, Any]) -> float:
    return next((float(d["rotation"]) for d in stream.get("side_data_list", []) if "rotation" in d), 0.0)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _ratio(text: str, sign: str, *, otherwise: float) -> float:
    over, _, under = text.partition(sign)
    top, bottom = _number(over), _number(under)
    return top / bottom if top and bottom else otherwise


def _known(value: str | None) -> str | None:
    return None if value in (None, "unknown", "reserved") else value
