"""Decide whether a video can be transcoded, and whether its result may replace it. Pure."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reelkeeper.model import COPIED_SOUND, Grace, Media, Quality, Refusal
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.lifecycle.worth import EFFORTS, Payback

# Source bytes in a batch: more than a second of CPU, compared with 25 to 50 ms for a task run; and enough to make
# that negligible.
LEAST_BYTES: Final = 100_000
ENOUGH_BYTES: Final = 1_000_000
SHARES: Final = 16  # a batch has at most this fraction of the rest
MAX_BATCHES: Final = 400  # Prefect's server loses records with some hundreds of task runs at once

Placement = Literal["new_key", "in_place", "auto"]
NEW_KEY: Final = "new_key"
IN_PLACE: Final = "in_place"
AUTO: Final = "auto"
NOT_IN_PLACE: Final = "not_in_place"  # the rule, and the mark of its refusals, for any recipe in place
OWN_RESULT: Final = "own_result"  # the same for our own results that the catalogue does not know, for any recipe
BUCKET_LOCK: Final = "locked"  # the rule of those that a bucket lock keeps as they are
PAYBACK: Final = "payback"  # the rule of refusals because an encode would cost more than it saves
KILLED: Final = "killed"  # of those whose tools were ended from outside, as where memory ran out, in several runs
RETRIED_MONTHLY: Final = (PAYBACK, KILLED)  # later results may show that an encode pays, a machine may have more memory
MAX_BYTES_IN_PLACE: Final = 5 * 1024**3  # Cloudflare R2 "Limits" page: the maximum of a single put or copy
IN_PLACE_CODEC: Final = "h264"

EFFICIENT_CODECS: Final = ("av1", "vp9", "hevc")  # a second lossy pass would cost more than it saves
_TEXT_SUBTITLES = {"mov_text", "webvtt", "subrip", "text"}  # ASS would lose its colours and positions, and most styles
_MAX_CHANNELS = 8  # of Opus: RFC 7845, 5.1.1.2
_CONTAINERS = {"mp4": "mov", "webm": "webm"}  # as `Media` names them
_CRF_RANGES = {"h264": (16, 40), "hevc": (16, 42), "av1": (20, 55), "vp9": (20, 55)}
_TOLERANCE_SECONDS = 0.05
_TIMING_TOLERANCE_MS = 2  # WebM has milliseconds, and both times are rounded
_ASPECT_TOLERANCE = 0.01
_DEPTHS = {"h264": (8,), "hevc": (8, 10), "av1": (8, 10), "vp9": (8, 10)}  # bits; 10-bit H.264 plays on few devices
# Properties that a result must keep: VMAF compares only luma, frame by frame.
_KEPT = ("bit_depth", "chroma", "field_order", "color_range", "color_space", "color_primaries", "color_transfer")
_UNMARKED = {"color_range": "tv"}  # ITU-T H.264 and H.265, E.2.1: x264 and x265 do not write the default
_CHROMA = ("4:2:0", "gray")  # lossless in 4:2:0, the only format of SVT-AV1 and of most players
# Side data that an encode keeps.
_SIDE_DATA = {"mp4": {"Mastering display metadata", "Content light level metadata"}}
_SIDE_DATA["webm"] = {*_SIDE_DATA["mp4"], "Stereo 3D"}
_CAPTIONS = "ATSC A53 Part 4 Closed Captions"  # of x264 alone: ffmpeg's other encoders drop them
# Layouts that Opus has (RFC 7845, 5.1.1.2), under ffmpeg's names: other layouts would be mixed into them.
_LAYOUTS = {"mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1", "unknown"}
_LAYOUTS |= {"1 channels", "2 channels", "quad(side)", "5.0(side)", "5.1(side)"}


class Recipe(BaseModel):
    """Settings of transcoding. After a change, refused videos are tried again.

    Every device plays H.264 in MP4. At the same VMAF, SVT-AV1 needs about 0.8 of x264's bytes, x265 nearly all,
    and two-pass libvpx-vp9 as many for five times the CPU. No fixed CRF gives a known quality (the same VMAF took
    CRF 25 to 51 on nine clips), so the CRF is searched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    codec: Literal["h264", "hevc", "av1", "vp9"] = Field(
        "h264",
        description="h264 plays everywhere; hevc on Apple's devices and where hardware decodes it; av1 gives the "
        "smallest files, but plays only on Apple's devices since 2023; vp9 also plays on older ones",
    )
    container: Literal["mp4", "webm"] = Field("mp4", description="mp4 plays everywhere; webm holds only av1 and vp9")
    placement: Placement = Field(
        NEW_KEY,
        description="new_key: the result gets a key of its own, and links to the old key end with its grace; in_place: "
        "the result replaces the old bytes at the service's key, so links keep working, only for h264 in mp4 over h264 "
        "in mp4, and the old bytes are kept aside for their grace; auto, the default of new stores: in_place for h264 "
        "in mp4, else new_key",
    )
    preset: int | None = Field(
        None,
        ge=0,
        le=13,
        description="Encoder effort: 0 (fast) to 9 for h264 and hevc, 13 (fast) to 0 for av1, 5 (fast) to 0 for vp9; "
        "unset: the preset that pays best",
    )
    crf_start: int | None = Field(
        None, ge=1, le=63, description="First CRF to try; unset: predicted from earlier searches"
    )
    skip_codecs: tuple[str, ...] = Field(
        EFFICIENT_CODECS, description="Codecs that are already efficient: videos in them are not compressed"
    )
    payback: Payback = Field(Payback(), description="Whether an encode must save more than it costs")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        lowest, highest = self.crf_range
        if not lowest <= (self.crf_start or lowest) <= highest:
            raise ValueError(f"not {lowest} <= crf_start {self.crf_start} <= {highest}")
        if self.container == "webm" and self.codec not in ("av1", "vp9"):
            raise ValueError(f"WebM holds av1 and vp9, no {self.codec}: set container to mp4")
        if self.placement == IN_PLACE and why_not_in_place(self.codec, self.container, 0):
            raise ValueError(f"placement in_place takes h264 in mp4 alone, no {self.codec} in {self.container}")
        return self

    @property
    def place(self) -> Placement:
        """Where the results for the service's keys are put: `placement`, with `auto` decided."""
        if self.placement != AUTO:
            return self.placement
        return NEW_KEY if why_not_in_place(self.codec, self.container, 0) else IN_PLACE

    @property
    def crf_range(self) -> tuple[int, int]:
        """The lowest and the highest CRF to try; above, VMAF is too favourable to smooth pans."""
        return _CRF_RANGES[self.codec]

    @property
    def presets(self) -> tuple[int, ...]:
        """The presets to choose from; only one if it is set."""
        return tuple(EFFORTS[self.codec]) if self.preset is None else (self.preset,)


class Acceptance(BaseModel):
    """Requirements on a result that replaces its source. Quality is VMAF v0.6.1 at native size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_vmaf_mean: float = Field(
        93, ge=0, le=97, description="Minimum VMAF, mean of all frames; a still image reaches at most 97.4"
    )
    min_vmaf_p5: float = Field(88, ge=0, le=97, description="Minimum VMAF, 5th percentile of all frames")
    # Results at the floor have 39 to 48 dB on three natural clips, and 32 to 35 on bright drawings. A hue turned
    # by 20 degrees has 28 to 45, U and V swapped 18 to 32.
    min_chroma_db: float = Field(
        32,
        ge=0,
        le=60,
        description="Minimum mean PSNR of the worse of the two colour planes, in dB; VMAF sees only luma",
    )
    max_size_percent: float = Field(
        90, gt=0, lt=100, description="Maximum size of the result, in percent of its source"
    )

    def most_bytes(self, source_bytes: int) -> int:
        """Return the largest size of a result for a source of `source_bytes`."""
        return int(source_bytes * self.max_size_percent / 100)


def why_not_in_place(codec: str, container: str, size_bytes: int) -> str | None:
    """Return why these bytes are not overwritten, or None: links must still serve the format that players expect."""
    if size_bytes > MAX_BYTES_IN_PLACE:
        return f"{size_bytes:,} bytes, and a single put takes {MAX_BYTES_IN_PLACE:,}: it cannot be put back at its key"
    if (codec, container) != (IN_PLACE_CODEC, "mp4"):
        return f"{codec} in {container}, and only H.264 in MP4 is put over H.264 in MP4"
    return None


def links(place: Placement, grace: Grace) -> str:
    """Say what becomes of links to the service's own keys when a video there is compressed."""
    if place == IN_PLACE:
        return "Results replace the bytes at your service's own keys, so links to them keep working."
    return (
        f"Results get keys of their own: links to your service's keys end {many(grace.service_days, 'day')} later, and "
        "the HTTP API and webhooks give the new keys. recipe.placement: in_place keeps the links, for H.264 in MP4."
    )


def links_of_retired(grace: Grace) -> str:
    """Describe how long links to the service's own keys work after a video there is retired."""
    days = many(grace.service_days, "day")
    return f"Links to them work until their bytes are deleted, {days} later; until then reelkeeper restore undoes it."


def mark_of_month(mark: str, at: datetime) -> str:
    """Return the mark of a refusal that is valid for the month of `at`; `mark` is its rule or its recipe's fingerprint.

    After a month, a bucket lock by age may have ended, or one of `RETRIED_MONTHLY`.
    """
    return f"{mark}_{at:%Y-%m}"


def fingerprint(recipe: Recipe, acceptance: Acceptance, encoder: str) -> str:
    """Return the fingerprint of everything that a refusal depends on, 16 hex digits; `encoder` has its version.

    The placement of the result is not part of it, as refusals for that have their own mark.
    """
    content = [recipe.model_dump(mode="json", exclude={"placement"}), acceptance.model_dump(mode="json"), encoder]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def bits_per_pixel(media: Media) -> float:
    """Return the bits of the video stream per pixel of each frame."""
    return media.video_bits / max(1, media.width * media.height * media.frames)


def skip(media: Media, recipe: Recipe) -> Refusal | None:
    """Return why a source is refused without an encode, or None."""
    pictures = [s.codec for s in media.subtitles if s.codec not in _TEXT_SUBTITLES]
    encoded = [s for s in media.audio if s.codec not in COPIED_SOUND[recipe.container]]
    channels = max((s.channels or 0 for s in encoded), default=0)
    silent = [s.codec for s in media.audio if not s.channels]
    layouts = [s.channel_layout for s in encoded if (s.channel_layout or "unknown") not in _LAYOUTS]
    carried = _SIDE_DATA[recipe.container] | ({_CAPTIONS} if recipe.codec == "h264" else set())
    extra = sorted(set(media.side_data) - carried)
    boxes = [*media.lost_boxes, *(media.carried_boxes if recipe.container != "mp4" else ())]
    rules = (
        ("efficient_codec", media.codec in recipe.skip_codecs, f"it is {media.codec} already"),
        ("alpha", media.has_alpha, f"{media.pixel_format} has transparency, which the result would lose"),
        (
            "chroma",
            media.chroma not in _CHROMA,
            f"{media.pixel_format or 'its colour'} is {media.chroma}, and a result in 4:2:0 would lose colour",
        ),
        (
            "bit_depth",
            media.bit_depth not in _DEPTHS[recipe.codec],
            f"{media.bit_depth} bits, a result can have {' or '.join(map(str, _DEPTHS[recipe.codec]))}",
        ),
        (
            "interlaced",
            media.field_order != "progressive",
            f"its frames are interlaced ({media.field_order}), and a result would lose their fields",
        ),
        ("side_data", bool(extra), f"{', '.join(extra)} would be lost"),
        ("content_credentials", media.content_credentials, "its Content Credentials (C2PA) would be lost"),
        # guard transcode.lost_boxes: provenance in a box that ffmpeg does not know is lost
        ("metadata_boxes", bool(boxes), f"{', '.join(boxes)} would be lost"),
        ("several_videos", media.video_streams != 1, f"{media.video_streams} video streams, only one would be kept"),
        ("picture_subtitles", bool(pictures), f"subtitles in {', '.join(pictures)} are more than text"),
        ("channels", channels > _MAX_CHANNELS, f"{channels} audio channels, Opus takes {_MAX_CHANNELS}"),
        ("audio_layout", bool(layouts), f"audio in {', '.join(map(str, layouts))} would be mixed into another layout"),
        ("unknown_audio", bool(silent), f"audio in {', '.join(silent)} of an unknown number of channels"),
    )
    return next((Refusal(rule, reason) for rule, holds, reason in rules if holds), None)


def accept(source: Media, result: Media, quality: Quality, recipe: Recipe, acceptance: Acceptance) -> Refusal | None:
    """Return why `result` may not replace `source`, every fault with its figures; None if it may."""
    faults = [
        *_plays(result, recipe),
        *_shape(source, result),
        *_kept(source, result),
        *_sound(source, result, recipe),
        *_cues(source, result),
        *_worth(source, result, quality, acceptance),
    ]
    if not faults:
        return None
    return Refusal(faults[0][0], "; ".join(reason for _, reason in faults))


def _plays(result: Media, recipe: Recipe) -> Iterator[tuple[str, str]]:
    if (result.container, result.codec, result.video_streams) != (_CONTAINERS[recipe.container], recipe.codec, 1):
        found = f"{result.video_streams} x {result.codec} in {result.container}"
        yield "codec", f"{found}, not 1 x {recipe.codec} in {recipe.container}"
    if recipe.container == "mp4" and not result.index_first:
        yield "index_first", "its index (moov) stands behind its media data, so it plays only when all of it is there"
    if recipe.codec == "hevc" and result.codec_tag != "hvc1":
        yield "codec_tag", f"HEVC is tagged {result.codec_tag}, and Apple's players take hvc1 alone"


def _shape(source: Media, result: Media) -> Iterator[tuple[str, str]]:
    if result.frames != source.frames:
        yield "frames", f"{result.frames} frames, the source has {source.frames}"
    frame = source.duration_seconds / max(1, source.frames)
    if not abs(result.duration_seconds - source.duration_seconds) <= max(frame, _TOLERANCE_SECONDS):
        yield "duration", f"{result.duration_seconds:.3f} s, the source has {source.duration_seconds:.3f} s"
    if (late := _latest(source.shown_at_ms, result.shown_at_ms)) > _TIMING_TOLERANCE_MS:
        yield "timing", f"a frame is shown {late} ms from its time in the source"
    if (result.width, result.height) != (source.width, source.height):
        yield "display_size", f"{result.width}x{result.height}, the source {source.width}x{source.height}"
    if not abs(result.display_aspect / source.display_aspect - 1) <= _ASPECT_TOLERANCE:
        yield "aspect", f"display aspect {result.display_aspect:.4f}, the source {source.display_aspect:.4f}"


def _kept(source: Media, result: Media) -> Iterator[tuple[str, str]]:
    for name in _KEPT:
        before, after = getattr(source, name), getattr(result, name)
        after = _UNMARKED.get(name) if after is None else after
        if before not in (None, "gray", after):  # gray is lossless in any chroma format
            yield name, f"{name} {after}, the source {before}"
    if lost := sorted(set(source.side_data) - set(result.side_data)):
        yield "side_data", f"without the source's {', '.join(lost)}"
    # guard transcode.boxes_kept: a result without its source's provenance replaces it
    if missing := sorted(set(source.carried_boxes) - set(result.carried_boxes)):
        yield "metadata_boxes", f"without the source's {', '.join(missing)}"
    tags = dict(result.tags)
    if changed := sorted(name for name, value in source.tags if tags.get(name) != value):
        yield "tags", f"without the source's tags {', '.join(changed)}"


def _latest(before: Sequence[int], after: Sequence[int]) -> int:
    """Return the largest difference of two times. VMAF pairs frames by number, regardless of their times."""
    return max((abs(new - old) for old, new in zip(before, after, strict=False)), default=0)


def _sound(source: Media, result: Media, recipe: Recipe) -> Iterator[tuple[str, str]]:
    for kind in ("audio", "subtitles"):
        before, after = getattr(source, kind), getattr(result, kind)
        if len(before) != len(after):
            yield kind, f"{len(after)} {kind} streams, the source has {len(before)}"
    for number, (old, new) in enumerate(zip(source.audio, result.audio, strict=False), 1):
        wanted = old.codec if old.codec in COPIED_SOUND[recipe.container] else "opus"
        if new.codec != wanted or new.channels != old.channels:
            found = f"{new.codec} of {new.channels} channels"
            yield "audio", f"audio {number}: {found}, not {wanted} of the source's {old.channels}"
        if old.duration_seconds is None or new.duration_seconds is None:
            yield "audio_duration", f"audio {number}: {new.duration_seconds} s, the source {old.duration_seconds} s"
        elif not abs(new.duration_seconds - old.duration_seconds) <= _TOLERANCE_SECONDS:
            yield "audio_duration", f"audio {number}: {new.duration_seconds:.3f} s, not {old.duration_seconds:.3f} s"
        shift = (new.start_seconds - result.start_seconds) - (old.start_seconds - source.start_seconds)
        if not abs(shift) <= _TOLERANCE_SECONDS:
            yield "audio_sync", f"audio {number}: moved by {shift:+.3f} s against the picture"


def _cues(source: Media, result: Media) -> Iterator[tuple[str, str]]:
    for number, (old, new) in enumerate(zip(source.subtitles, result.subtitles, strict=False), 1):
        before, after = list(chain(*old.cues_ms)), list(chain(*new.cues_ms))
        # guard transcode.cues: subtitles that overlap are cut short, as MP4 shows one at a time
        if len(before) != len(after) or _latest(before, after) > 1000 * _TOLERANCE_SECONDS:
            yield "subtitles", f"subtitles {number}: not shown as long, or as often, as in the source"


def _worth(source: Media, result: Media, quality: Quality, acceptance: Acceptance) -> Iterator[tuple[str, str]]:
    most = acceptance.most_bytes(source.size_bytes)
    if not 0 < result.size_bytes <= most:
        yield "size", f"{result.size_bytes} bytes of {source.size_bytes}, at most {most} would do"
    # guard transcode.every_frame: a result is accepted by the few frames that the search compared
    if quality.subsample != 1 or quality.frames != source.frames:
        yield "not_verified", f"{quality.frames} of {source.frames} frames compared"
    # guard transcode.floors: a result below the promised quality replaces its source
    if not quality.mean >= acceptance.min_vmaf_mean or not quality.p5 >= acceptance.min_vmaf_p5:
        floors = f"the floors are {acceptance.min_vmaf_mean:g} and {acceptance.min_vmaf_p5:g}"
        yield "quality", f"VMAF mean {quality.mean:.2f} and 5th percentile {quality.p5:.2f}, {floors}"
    # guard transcode.chroma: a result in wrong colours replaces its source
    if not quality.chroma_db >= acceptance.min_chroma_db:
        yield "colour", f"colour at {quality.chroma_db:.1f} dB of PSNR, the floor is {acceptance.min_chroma_db:g}"


def first_batch(sizes: Sequence[int], left_bytes: int, all_bytes: int) -> int:
    """Choose how many of the next videos, of these sizes, make a batch that is worth a task run.

    Batches get smaller towards the end, so that all workers finish together. `left_bytes` of the plan's `all_bytes` are
    not begun.
    """
    least = max(LEAST_BYTES, all_bytes // MAX_BATCHES)
    enough = min(max(left_bytes // SHARES, least), max(ENOUGH_BYTES, least))
    taken = 0
    for count, size_bytes in enumerate(sizes, 1):
        taken += size_bytes
        if taken >= enough:
            return count
    return len(sizes)
