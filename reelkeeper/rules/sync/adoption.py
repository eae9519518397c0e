"""Check whether the key patterns fit the bucket, and report what they would adopt. Pure.

A wrong pattern makes few videos of many objects, or assigns nearly all to one user.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.model.adoption import Adoption, AdoptionVerdict, Crowding, OneDay
from reelkeeper.model.document import Table
from reelkeeper.model.key_patterns import KeyPattern
from reelkeeper.rules.core.wording import many, size

MIN_FURTHER_FILES: Final = 4  # fewer are reported one by one, and say nothing about a pattern
MIN_VIDEOS: Final = 1_000  # new videos at once; a service with fewer may have one large user
MIN_ONE_DAY: Final = 20  # objects; fewer may have been stored on one day for any reason

REASONS: Final = {
    AdoptionVerdict.LEFTOVER: "made by Reelkeeper, and not the present bytes of its video: retired when it is 48 hours "
    "old, was seen a day apart, and its video lives on newer bytes; kept else",
    AdoptionVerdict.FOLDER: "a folder's marker, which holds nothing",
    AdoptionVerdict.NOT_A_VIDEO: "does not end in mp4, webm, mov, mkv or m4v, as a thumbnail or a playlist: nothing "
    "to do, unless it is a video under another name: then name its user with reelkeeper videos import --keys",
    AdoptionVerdict.NO_PATTERN: "no pattern matches: add one to REELKEEPER_KEY_PATTERN, without the prefix, or name "
    "its user with reelkeeper videos import --keys",
    AdoptionVerdict.NO_OWNER: "nothing says whose it is: name its user with reelkeeper videos import --keys",
    AdoptionVerdict.EMPTY: "holds 0 bytes: upload it again, or delete it",
    AdoptionVerdict.ODD_KEY: "servers read this key in different ways: rename the object",
    AdoptionVerdict.ANOTHER_FILE: "one more file of a video whose bytes are at another key: if it is a video of its "
    "own, give it a video_id with reelkeeper videos import --keys",
    AdoptionVerdict.ID_TAKEN: "both ids that it could have are other users': give it a video_id with reelkeeper videos "
    "import --keys",
    AdoptionVerdict.REFUSED: "its pattern does not fit the bucket, and nothing was adopted by any",
}


class AdoptionLimits(BaseModel):
    """Limits on how many adopted objects may belong to one video or user. Objects named in a CSV are not counted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_files_of_a_video: int = Field(
        20,
        ge=1,
        le=10**9,
        description="Maximum number of files of one new video; with more, {video} does not identify a video",
    )
    max_further_files_percent: float = Field(
        50,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Maximum share of the objects that are further files of new videos, in percent",
    )
    max_user_percent: float = Field(
        90,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description=f"Maximum share of all videos that one user may have, in percent, once {MIN_VIDEOS:,} or more are "
        "adopted at once",
    )


def refusal(limits: AdoptionLimits, found: Crowding) -> str | None:
    """Explain why patterns may adopt nothing, with all figures and overrides; None if they may."""
    figures = misfit(limits, found)
    if not figures:
        return None
    overrides = " ".join(f"--param adoption.{override}" for _, override in _broken(limits, found))
    return (
        f"{figures}. The patterns do not fit this bucket: see REELKEEPER_KEY_PATTERN, or name owners with reelkeeper "
        f"videos import --keys. If it is right: {overrides}"
    )


def misfit(limits: AdoptionLimits, found: Crowding) -> str:
    """Say with all figures that patterns do not fit the bucket; "" if they may."""
    return "; ".join(figures for figures, _ in _broken(limits, found))


def repeated(prefix: str, patterns: Sequence[KeyPattern]) -> str:
    """Advise to write patterns that repeat the prefix without it, as they begin below it; "" if none does."""
    written = [pattern.text for pattern in patterns if prefix and pattern.text.startswith(prefix)]
    return "; ".join(f"write the pattern {text} without the prefix, {text.removeprefix(prefix)}" for text in written)


def together(found: Crowding, before: Mapping[str, int]) -> Crowding:
    """Add the files of each video that were adopted in the last 24 hours to those of this batch.

    So objects that arrive one by one are limited like those of one listing.
    """
    if not before or not found.objects:
        return found
    video = max(before, key=lambda video_id: (before[video_id], video_id))
    largest = (before[video], video) if before[video] > found.files else (found.files, found.video)
    return replace(
        found,
        objects=found.objects + sum(before.values()),
        further_files=found.further_files + sum(before.values()) - len(before),
        files=largest[0],
        video=largest[1],
        new_videos=found.new_videos + len(before),
    )


def _broken(limits: AdoptionLimits, found: Crowding) -> Iterator[tuple[str, str]]:
    """List each exceeded limit with its figures, and how to raise it."""
    if found.files > limits.max_files_of_a_video:
        figures = f"{many(found.files, 'file')} would be one video, {found.video!r}"
        yield f"{figures}, where at most {limits.max_files_of_a_video:,} may", f"max_files_of_a_video={found.files}"
    percent = _percent(found.further_files, found.objects)
    if found.further_files >= MIN_FURTHER_FILES and percent > limits.max_further_files_percent:
        share = f"{found.further_files:,} of {many(found.objects, 'object')} ({percent:.0f} %)"
        figures = f"{share} would be further files of videos, such as {found.video!r} with {found.files:,}"
        yield f"{figures}, where at most {limits.max_further_files_percent:g} % may", "max_further_files_percent=100"
    percent = _percent(found.of_user, found.videos)
    if found.new_videos >= MIN_VIDEOS and percent > limits.max_user_percent:
        share = f"{found.of_user:,} of {many(found.videos, 'video')} ({percent:.0f} %)"
        figures = f"{share} would be of one user: {found.user!r}"
        yield f"{figures}, where at most {limits.max_user_percent:g} % may", "max_user_percent=100"


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0


def one_day_warning(found: OneDay | None) -> str | None:
    """Warn that most objects are from one day, as after a copy of the bucket, and explain how to import true ages."""
    if found is None or found.objects < MIN_ONE_DAY or 2 * found.objects <= found.of:
        return None
    return (
        f"{found.objects:,} of {many(found.of, 'object')} were stored on {found.day}, as when a bucket was copied: "
        "their videos count as made on that day. True ages come from created_at, by reelkeeper videos import --keys or "
        "--videos, or from {year}, {month} and {day} in REELKEEPER_KEY_PATTERN"
    )


def document(adoption: Adoption, *, dry_run: bool) -> Iterator[str | Table]:
    """Tabulate adopted objects, examples, and objects left out, with remarks."""
    if adoption.patterns:
        rows = [(count.pattern, count.objects, size(count.size_bytes)) for count in adoption.patterns]
        yield Table(("!by", ">objects", ">bytes"), rows, "Would be adopted" if dry_run else "Adopted")
        examples = [(example.user_id, example.video_id, example.key) for example in adoption.examples]
        yield Table(("user", "video", "key"), examples, "For example")
    if adoption.left_out:
        out = [
            (omission.objects, REASONS[omission.verdict], "\n".join(omission.keys)) for omission in adoption.left_out
        ]
        yield Table((">objects", "why, and the way out", "for example"), out, "Stays out, and is kept")
    if adoption.refusal:
        opening = "With --apply, nothing would be" if dry_run else "Nothing was"
        yield f"{opening} adopted by a pattern: {adoption.refusal}."
    if warning := one_day_warning(adoption.one_day):
        yield f"{warning}."
