"""A scan's verdicts on objects without a row."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class AdoptionVerdict(StrEnum):
    """The verdict on an object without a row. All but the first two stay noted, and are kept."""

    ADOPT = "adopt"
    TAKE_BACK = "take_back"
    LEFTOVER = "leftover"
    FOLDER = "folder"
    NOT_A_VIDEO = "not_a_video"
    NO_PATTERN = "no_pattern"
    NO_OWNER = "no_owner"
    EMPTY = "empty"
    ODD_KEY = "odd_key"
    ANOTHER_FILE = "another_file"
    ID_TAKEN = "id_taken"
    REFUSED = "refused"


IN_DOUBT = (AdoptionVerdict.EMPTY, AdoptionVerdict.ODD_KEY, AdoptionVerdict.ANOTHER_FILE, AdoptionVerdict.ID_TAKEN)
BY_CSV = -1  # the place, among the patterns, of what `videos import --keys` says


@dataclass(frozen=True, slots=True)
class PatternCount:
    """The objects adopted by one pattern."""

    pattern: str
    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AdoptedExample:
    """One key, with the user and video parsed from it."""

    key: str
    user_id: str
    video_id: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Objects that stay out for one reason, with the first few of their keys."""

    verdict: AdoptionVerdict
    objects: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Crowding:
    """Concentration of the objects that patterns would adopt: on one video, on the largest, and on one user."""

    objects: int = 0  # that patterns alone would make videos of, or further files of those
    further_files: int = 0  # of them, those that are one more file of a video
    files: int = 0  # of the video that would have the most
    video: str = ""
    new_videos: int = 0
    videos: int = 0  # with those in the catalogue
    of_user: int = 0  # of the user who would have the most of the new ones
    user: str = ""


@dataclass(frozen=True, slots=True)
class OneDay:
    """The day on which most of some objects were stored."""

    day: date
    objects: int
    of: int


@dataclass(frozen=True, slots=True)
class Adoption:
    """The objects that a scan adopts, by pattern, and those left out. `refusal` says why patterns adopt nothing."""

    patterns: tuple[PatternCount, ...] = ()
    taken_back: int = 0
    examples: tuple[AdoptedExample, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    one_day: OneDay | None = None
    refusal: str | None = None

    @property
    def adopted(self) -> int:
        """Count the objects that become videos."""
        return sum(count.objects for count in self.patterns)

    @property
    def kept_out(self) -> int:
        """Count the objects that stay out."""
        return sum(omission.objects for omission in self.left_out)
