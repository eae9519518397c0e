"""Data of `reelkeeper scan`: the figures of a bucket, and the levers that would lower its bill."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

AGES: Final = (  # by maximum age in whole days of 24 hours, at the ends of the tiers' default retentions
    (7, "up to 7 days"),
    (30, "8 to 30 days"),
    (90, "31 to 90 days"),
    (365, "91 to 365 days"),
)
OLDER: Final = "over a year"


def age_label(days: int) -> str:
    """Name an age in whole days of 24 hours, as reports do and as verdicts count them: not by the calendar."""
    return next((label for most, label in AGES if days <= most), OLDER)


class Kind(StrEnum):
    """Kind of an object, by the end of its key."""

    VIDEO = "video"
    IMAGE = "image"
    PLAYLIST = "playlist"
    SEGMENT = "stream segment"
    SOUND = "sound"
    TEXT = "text and data"
    FOLDER = "folder marker"
    OURS = "Reelkeeper's own"
    OTHER = "other"


class Part(NamedTuple):
    """Some of the objects. `infrequent_bytes` of its bytes are in Infrequent Access."""

    name: str
    objects: int = 0
    size_bytes: int = 0
    infrequent_bytes: int = 0

    def plus(self, more: "Part") -> "Part":
        """Return the sum of both, under the name of this one."""
        return Part(self.name, *(one + other for one, other in zip(self[1:], more[1:], strict=True)))


class Folders(NamedTuple):
    """The folders at the top of a bucket, those that were counted the largest first, and what is in none of them.

    `is_complete` is False if there may be more folders, and more outside of them.
    """

    counted: Sequence[Part] = ()
    uncounted: Sequence[str] = ()
    outside: Part = Part("")
    is_complete: bool = True


class Example(NamedTuple):
    """An object, or one of `copies`, and what there is to say about it."""

    key: str
    size_bytes: int
    note: str = ""
    copies: int = 1


class Clip(NamedTuple):
    """A video that was encoded as a sample: `rule` is "accepted", or why nothing smaller took its place."""

    key: str
    size_bytes: int
    kept_bytes: int
    rule: str
    cpu_seconds: float = 0.0


class Sample(NamedTuple):
    """The videos that a seed drew, each encoded as `tier_storage` would; `failed`: keys that could not be tried.

    An interruption leaves `untried` of them.
    """

    seed: int
    clips: Sequence[Clip]
    failed: Sequence[str] = ()
    untried: int = 0

    @property
    def size_bytes(self) -> int:
        """The bytes of those that were tried."""
        return sum(clip.size_bytes for clip in self.clips)

    @property
    def kept_bytes(self) -> int:
        """The bytes that would be stored in their place."""
        return sum(clip.kept_bytes for clip in self.clips)


class Verdict(StrEnum):
    """Verdict on a lever: it brings more than it takes, it does not, or a listing cannot tell."""

    WORTH = "worth it"
    NOT_WORTH = "not worth it"
    UNKNOWN = "unknown"


class Lever(NamedTuple):
    """Something that would lower the bill: dollars a month as billed, and once, for doing it.

    Where the verdict is unknown, the dollars are the most that it could be.
    """

    name: str
    title: str
    objects: int
    size_bytes: int
    usd_a_month: Decimal
    once_usd: Decimal
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class Scan:
    """The figures of one scan. `stopped` says why it is partial, "" if it is not; None stands for unknown.

    Where everything was listed all the same, `is_listed`, only unfinished uploads or the sample are partial.
    """

    bucket: str
    prefix: str
    as_of: datetime
    stopped: str
    is_listed: bool
    total: Part
    dated: Part  # whose age and month are by the date in their key; those of the others by their last write
    billed_usd: Decimal  # a month's storage on R2's bill, if the account stores nothing else
    list_usd: Decimal  # without the free allowance and without rounding
    requests: int  # listings that the scan sent
    folders: Sequence[Part]  # the largest, and the rest together
    users: Sequence[Part]
    known_users: int | None  # None, and no users, where the patterns of keys do not fit
    kinds: Sequence[Part]
    ages: Sequence[tuple[str, Part]]  # the age, and the kind
    months: Sequence[tuple[str, Part]]  # when they were stored, YYYY-MM or by its key YYYY, and the kind
    duplicates: Part  # beyond the first of each
    duplicated: Sequence[Example]
    unfinished: Part | None
    orphans: Part | None  # images of videos that are not there
    empty: Part
    emptied: Sequence[Example]  # the first few of them
    odd: Sequence[Example]  # the first few keys that servers read in different ways
    odd_keys: int
    biggest: Sequence[Example]
    sample: Sample | None
    levers: Sequence[Lever]
    remarks: Sequence[str]

    @property
    def basis(self) -> str:
        """Name the dates by which ages and months are counted: those in the keys, or of the last write."""
        others = self.total.objects - self.dated.objects
        if not self.dated.objects:
            return "by the time it was last written"
        by_key = "by the date in each key"
        return f"{by_key} where the pattern has one, by last write for the other {others:,}" if others else by_key
