"""The nouns of Reelkeeper. Values only: frozen, with units in their names, free of I/O.

`Video` and `Verdict` are named tuples, since a plan makes one of each for every video in the catalogue and a
frozen dataclass costs four times as much to build.
"""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

_ONE_SECOND = timedelta(seconds=1)


class VideoState(StrEnum):
    """The state of a video: pending -> live -> retired -> gone (or lost).

    `pending`: its first bytes are not verified yet. `retired`: restorable until its purge. `lost`: its bytes vanished.
    """

    PENDING = "pending"
    LIVE = "live"
    RETIRED = "retired"
    GONE = "gone"
    LOST = "lost"


class SettledAs(StrEnum):
    """How a person settles a doubt about a stored object that is not as recorded."""

    STORED = "stored"  # the stored object becomes the record
    LOST = "lost"  # the recorded bytes are lost, and the stored object stays for ever


class BlobState(StrEnum):
    """The state of one stored object: pending -> live -> retired -> deleting -> gone (or lost).

    `pending`: an intent, the object may not exist yet. `retired`: restorable until its grace is over.
    `deleting`: the point of no return. `lost`: the object is missing although nobody deleted it.
    """

    PENDING = "pending"
    LIVE = "live"
    RETIRED = "retired"
    DELETING = "deleting"
    GONE = "gone"
    LOST = "lost"


class Action(StrEnum):
    """The action of a verdict on a video."""

    KEEP = "keep"
    COMPRESS = "compress"
    RETIRE = "retire"
    NOTIFY = "notify"  # tell the service that the video will be retired
    WITHDRAW = "withdraw"  # end such a notice


class Video(NamedTuple):
    """A live video as a rule sees it. `None` means unknown, which is never the same as zero."""

    id: str
    user_id: str
    tier: str | None  # as in the catalogue: the rules do nothing to a tier that the policies do not name
    created_at: datetime | None
    views: int | None  # in the trailing 30 days
    held: bool
    size_bytes: int
    codec: str | None
    refused_recipe: str | None  # the recipe that last failed on this video
    blob_id: int
    generation: int
    compressed: bool = False  # by Reelkeeper: its bytes are the result of a swap
    kept_until: datetime | None = None  # its user asked to keep it until then
    model: str | None = None  # the model that generated it
    tag: str | None = None  # given with its job or upload
    key: str | None = None  # full key of its object
    is_ours: bool = True  # Reelkeeper made the key


class Notice(NamedTuple):
    """A notice in force, which tells the service that a video will be retired. A video has one at a time."""

    video_id: str
    tier: str  # its user's, when the notice was given
    expires_at: datetime  # the video is not retired before this time
    told_at: datetime | None  # when every endpoint had it, or an operator confirmed it; None: not yet
    is_lost: bool  # a message to an endpoint is gone, and will never arrive


class Verdict(NamedTuple):
    """The decision on one video, and why. `figures` are the values that `rule` used."""

    video: Video
    action: Action
    rule: str
    figures: tuple[object, ...] = ()


class Fork(NamedTuple):
    """A question about live videos. The first answer that holds (below a limit, of a name or none, yes) leads on."""

    property: str
    answers: tuple[tuple[datetime | int | str | None, "Fork | str | None"], ...]
    otherwise: "Fork | str | None"  # the next question, the rule that keeps them, or None: judge each


class StoredObject(NamedTuple):
    """One object as the bucket reports it. `etag` is unquoted."""

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime
    storage_class: str = ""  # as a listing names it, such as STANDARD_IA; "": Standard, or not named


class Recorded(NamedTuple):
    """An object as the catalogue records it, for comparison with the one that is stored."""

    size_bytes: int
    etag: str | None
    is_ours: bool  # Reelkeeper made the key and wrote it once; otherwise the service may overwrite it at any time
    stored_at: datetime | None  # LastModified, at keys of the service's

    def matches(self, found: StoredObject) -> bool:
        """Compare with a stored object: size and ETag, and LastModified where the service may overwrite the key.

        If the same bytes are uploaded again, the ETag stays, and only LastModified differs. A HEAD gives it in whole
        seconds.
        """
        if (found.size_bytes, found.etag) != (self.size_bytes, self.etag):
            return False
        return self.is_ours or (self.stored_at is not None and abs(found.last_modified - self.stored_at) < _ONE_SECOND)


class Grace(NamedTuple):
    """Days between a retirement and the purge: for bytes at keys of ours, and at keys of the service's."""

    days: int = 7
    service_days: int = 14

    @property
    def in_words(self) -> str:
        """The days, with those at the service's keys where they are others."""
        theirs = f", {self.service_days} at your service's own keys," if self.service_days != self.days else ""
        return f"{self.days} day{'s' * (self.days != 1)}{theirs}"

    def overridden(self, days: int | None, service_days: int | None) -> "Grace":
        """Replace the given values; None keeps the present one."""
        return Grace(self.days if days is None else days, self.service_days if service_days is None else service_days)


@dataclass(frozen=True, slots=True)
class Stream:
    """One audio or subtitle stream of a media file."""

    kind: str  # audio, subtitle
    codec: str
    duration_seconds: float | None
    channels: int | None = None
    channel_layout: str | None = None
    start_seconds: float = 0.0
    cues_ms: tuple[tuple[int, int], ...] = ()  # of subtitles: from when until when each is shown, against the picture


@dataclass(frozen=True, slots=True)
class Media:
    """A file as ffprobe describes it. Frames and durations are measured where the header can be wrong."""

    container: str
    codec: str
    profile: str | None
    width: int  # as displayed, after rotation
    height: int
    display_aspect: float
    pixel_format: str
    bit_depth: int
    has_alpha: bool
    frames: int
    duration_seconds: float
    start_seconds: float
    video_bits: int
    size_bytes: int
    color_range: str | None
    color_space: str | None
    color_primaries: str | None
    color_transfer: str | None
    content_credentials: bool  # a C2PA manifest is embedded
    creation_time: str | None
    audio: tuple[Stream, ...] = ()
    subtitles: tuple[Stream, ...] = ()
    frame_rate: float = 0.0  # on average
    streams: int = 1  # of every kind
    video_streams: int = 1  # cover pictures not counted
    chroma: str = "4:2:0"  # 4:2:2, 4:4:4, rgb, gray and so on; unknown
    field_order: str = "progressive"  # tt, bb, tb, bt where frames are interlaced; unknown
    shown_at_ms: tuple[int, ...] = ()  # of each frame, after the first; empty if some are missing in the file
    tags: tuple[tuple[str, str], ...] = ()  # of the file: names in lower case, without the container's own
    codec_tag: str = ""  # of the codec in MP4: avc1, hvc1, hev1, av01, vp09
    index_first: bool = False  # of an MP4: playback can start before the file is complete
    carried_boxes: tuple[str, ...] = ()  # of an MP4, that ffmpeg does not know: type and SHA-256 of each `uuid` box
    lost_boxes: tuple[str, ...] = ()  # of an MP4: paths of metadata that no result can have
    side_data: tuple[str, ...] = ()  # other data needed for display, by ffprobe's names: Stereo 3D, Spherical Mapping


# Audio codecs that a transcode copies, because Chromium and Safari play them in that container; others become Opus.
COPIED_SOUND: Final = {"mp4": ("aac", "mp3", "opus"), "webm": ("opus",)}


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Limits of a video file; a file beyond one of them, as hostile and broken ones often are, is not decoded."""

    max_size_bytes: int = 500_000_000
    max_pixels: int = 4096 * 4096  # width times height
    min_side: int = 16  # of width and height, in pixels
    max_side: int = 8192
    min_duration_seconds: float = 0.1
    max_duration_seconds: float = 600
    max_frames: int = 40_000
    max_frame_rate: float = 240  # on average, in frames per second
    max_streams: int = 8  # of all kinds


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of a result against its source, over all compared frames: VMAF of luma alone, 0-100 points.

    `chroma_db` is the PSNR of U or V, the worse of both, in dB; 60 where they are the same in 8 bits.
    """

    metric: str  # the model, e.g. vmaf_v0.6.1
    mean: float
    p5: float
    minimum: float
    chroma_db: float
    frames: int
    subsample: int


@dataclass(frozen=True, slots=True)
class Transcode:
    """An accepted result of the CRF search: the file on disk, and the properties to record."""

    path: str
    size_bytes: int
    sha256: str
    media: Media
    quality: Quality
    crf: float
    recipe: str  # fingerprint of recipe, acceptance and encoder version
    encoder: str  # e.g. "libsvtav1 4.2.0"
    probes: tuple[tuple[float, float, float, int], ...]  # crf, VMAF mean, VMAF p5, bytes
    cpu_seconds: float
    source_codec: str


@dataclass(frozen=True, slots=True)
class CrfSearch:
    """The input, results and cost of one CRF search, whatever its outcome: later ones learn from it."""

    encoder: str
    preset: int
    pixels: int  # of a frame
    frames: int
    video_bits: int
    source_bytes: int
    kept_bytes: int  # size of the file that is kept: the source if the search was refused
    outcome: str  # accepted, or the rule of the refusal
    probes: tuple[tuple[float, int, float | None, float | None, int], ...]  # crf, bytes, VMAF mean, p5, frame step
    cpu_seconds: float
    days: int  # until the video's bytes are expected to be deleted: for these the saving counts
    gain_microusd: int  # storage cost of the saved bytes in that time, less that of the original for its grace
    cost_microusd: int  # of its CPU and requests


@dataclass(frozen=True, slots=True)
class SearchTotals:
    """Totals of CRF searches: source bytes, kept bytes and cost, including those that saved nothing."""

    searches: int = 0
    accepted: int = 0
    source_bytes: int = 0
    kept_bytes: int = 0
    cpu_seconds: float = 0.0
    gain_microusd: int = 0  # storage cost of the saved bytes over the rest of the videos' lives
    cost_microusd: int = 0  # of CPU and requests

    @property
    def net_microusd(self) -> int:
        """The gain less the cost."""
        return self.gain_microusd - self.cost_microusd


class LessByDay(NamedTuple):
    """Bytes saved by compression on a UTC day, and the day on which the saving ended (None: not yet)."""

    model: str | None  # the model that generated the videos
    pixels: int  # of a frame
    day: date
    went: date | None
    size_bytes: int
    is_ours: bool = True  # whether the key of the original is ours, which decides its grace


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why a video is not transcoded, with figures. A `permanent` one holds until the recipe changes."""

    rule: str
    reason: str
    recipe: str = ""  # the mark under which it holds: a search adds its own
    permanent: bool = True
    codec: str | None = None  # of the file, if it could be read


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of objects, and their total size."""

    objects: int = 0
    size_bytes: int = 0


class KeptTogether(NamedTuple):
    """Live videos that a rule keeps, counted together."""

    rule: str
    counts: Counts


class Claimed(NamedTuple):
    """The objects of a purge, takedown or erasure, running or killed; no other run touches them before `until`."""

    run_id: str
    objects: int
    size_bytes: int
    until: datetime


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The totals of a saved plan, for the guard and for reports."""

    id: str
    flow: str
    as_of: datetime
    population: Counts  # all live videos
    retire: Counts
    compress: Counts
    retire_by_user: dict[str, Counts] = field(default_factory=dict)
    live_by_user: dict[str, int] = field(default_factory=dict)  # only users named in retire_by_user
    kept: dict[str, int] = field(default_factory=dict)  # rule -> videos
    samples: tuple[str, ...] = ()  # a few video ids to show in a refusal
    approved: dict[str, float] = field(default_factory=dict)  # limits that a person raised for this plan only
    claimed: tuple[Claimed, ...] = ()  # of a purge: what other runs have claimed, which it leaves out


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one item of a plan."""

    video_id: str
    action: str  # compressed, retired, purged, restored, refused, skipped, failed
    reason: str
    before_bytes: int = 0
    after_bytes: int = 0
    blob_id: int | None = None


@dataclass(frozen=True, slots=True)
class PlannedRule:
    """The totals of a plan's items by one rule. `saving_microusd` is per month; None if it cannot be known yet."""

    action: str
    rule: str
    objects: int
    size_bytes: int
    saving_microusd: int | None
    net_microusd: int | None = None  # over the rest of the videos' lives, less CPU and requests
    segment: str | None = None  # of the policy whose rule this is

    @property
    def title(self) -> str:
        """The rule's name, with its segment."""
        return f"segment `{self.segment}`: {self.rule}" if self.segment else self.rule


@dataclass(frozen=True, slots=True)
class Done:
    """The number of a plan's items with one outcome, and their bytes. `not_done`: the run ended before them."""

    outcome: str
    objects: int
    before_bytes: int
    after_bytes: int
