"""Define segments: kinds of videos with lifecycle limits other than the policy's own. Pure.

    segments:
      - {name: drafts, tags: [draft], retention_days: 3}
      - {name: masters, key_globs: ["masters/*"], min_bytes: 50000000, retention_days: never, retire_below_views: never}

The first matching segment decides, with the policy's own values for its unset fields; without a match the policy
decides alone. The conditions (model, key, tag, size, tier) do not change with age or views, so these never move a
video to another segment. An unknown property matches no condition.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from reelkeeper.model import Verdict
from reelkeeper.model import key_globs as globs
from reelkeeper.model.requests import Name, Tag
from reelkeeper.rules.core.tiers import MAX_DAYS, Tiers
from reelkeeper.rules.core.wording import Terms

NEVER: Final = "never"
MAX_SEGMENTS: Final = 50
CONDITIONS: Final = ("models", "key_globs", "tags", "tiers", "min_bytes", "max_bytes")
NO_SEGMENT: Final = -1
_MOST = 10**15  # bytes
_UNKNOWN_SIZE = -1
_MAX_KNOWN = 10_000  # combinations of model, tag and tier that one process remembers

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Glob = Annotated[str, BeforeValidator(globs.require_glob)]
Views = Annotated[int, Field(ge=1, le=10**9)]
Days = Annotated[int, Field(ge=1, le=MAX_DAYS)]
OrNever = Annotated[Literal["never"], BeforeValidator(lambda value: NEVER if value == "none" else value)]
Bytes = Annotated[int, Field(ge=0, le=_MOST)]


class FieldsOnly(BaseModel):
    """A frozen model with cached properties, which are not pickled or copied."""

    def __getstate__(self) -> dict[Any, Any]:
        """Leave out cached properties: functions cannot be pickled."""
        state = super().__getstate__()
        return {**state, "__dict__": {name: state["__dict__"][name] for name in type(self).model_fields}}

    def __copy__(self) -> Self:
        """Leave out cached properties: they would belong to the earlier fields."""
        copied = super().__copy__()
        for made in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[made]
        return copied


class Classified(Protocol):
    """The properties of a video that segments use. None is unknown, and matches no condition."""

    @property
    def tier(self) -> str | None:
        """Its user's."""

    @property
    def model(self) -> str | None:
        """The model that made it."""

    @property
    def tag(self) -> str | None:
        """The tag that came with its job or upload."""

    @property
    def key(self) -> str | None:
        """The complete key of its bytes."""

    @property
    def size_bytes(self) -> int | None:
        """Its present bytes."""


class Expected(NamedTuple):
    """A video that is not made yet, so its key is unknown."""

    tier: str | None
    model: str | None
    tag: str | None
    size_bytes: int | None
    key: str | None = None


class Segment(BaseModel):
    """Conditions for videos, which must all hold, and their limits. An unset limit is as in the policy."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Slug = Field(description="Name of the segment, shown in plans, reasons and the audit record")
    models: tuple[Name, ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Matches videos made by one of these models, as named in their jobs",
    )
    key_globs: tuple[Glob, ...] | None = Field(
        None,
        min_length=1,
        max_length=20,
        description="Matches videos whose key matches one of these patterns: `*` is any text, `?` any one character",
    )
    tags: tuple[Tag, ...] | None = Field(
        None, min_length=1, max_length=100, description="Matches videos tagged with one of these by their job or upload"
    )
    tiers: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=100, description="Matches videos of users in these tiers"
    )
    min_bytes: Bytes | None = Field(None, strict=True, description="Matches videos of at least this size, in bytes")
    max_bytes: Bytes | None = Field(None, strict=True, description="Matches videos of at most this size, in bytes")
    retention_days: Days | OrNever | None = Field(
        None,
        description="Retire the videos when older than this number of days, viewed or not, whatever the tier; never: "
        "for ever",
    )
    compress_below_views: Views | OrNever | None = Field(None, description="As in the policy; never: compress none")
    compress_after_days: Days | None = Field(None, description="As in the policy")
    retire_below_views: Views | OrNever | None = Field(None, description="As in the policy; never: retire none as cold")
    retire_after_days: Days | None = Field(None, description="As in the policy")

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        # guard segments.condition: a segment without conditions applies its retention to every video
        if all(getattr(self, name) is None for name in CONDITIONS):
            raise ValueError(
                f"segment {self.name} asks nothing, so it would hold for every video: give it one of "
                f"{', '.join(CONDITIONS)}, or set the fields of lifecycle itself"
            )
        if self.min_bytes is not None and self.max_bytes is not None and self.min_bytes > self.max_bytes:
            raise ValueError(
                f"segment {self.name} matches nothing: min_bytes={self.min_bytes} is more than "
                f"max_bytes={self.max_bytes}. Are they swapped?"
            )
        return self

    def tiers_of(self, tiers: Tiers) -> Tiers:
        """Return the effective tiers for its videos: with its retention, if it sets one."""
        return tiers if self.retention_days is None else tiers.keeping(_value(self.retention_days))

    def overrides(self) -> dict[str, int | None]:
        """Return the policy's fields that the segment sets, None for `never`."""
        values = {
            "compress_below_views": self.compress_below_views,
            "compress_after_days": self.compress_after_days,
            "retire_below_views": self.retire_below_views,
            "retire_after_days": self.retire_after_days,
        }
        return {name: _value(value) for name, value in values.items() if value is not None}


def _value(value: int | str) -> int | None:
    return value if isinstance(value, int) else None


_Names = tuple[str | None, str | None, str | None]  # of a model, a tag and a tier


class _Rest(NamedTuple):
    """The remaining conditions of a segment for videos of one model, tag and tier."""

    low: int
    high: int
    matches: Callable[[str], object] | None  # the key
    place: int


class _Open(NamedTuple):
    """The segments that such videos may match. Only keys with these prefixes and suffixes match any of them."""

    every: tuple[_Rest, ...]
    without_keys: tuple[_Rest, ...]
    heads: tuple[str, ...]
    tails: tuple[str, ...]


def chooser(segments: Sequence[Segment]) -> Callable[[Classified], int]:
    """Make a function that returns the index of the first segment that matches a video, or NO_SEGMENT.

    Model, tag and tier are looked up together and leave few segments, whose sizes and keys are then compared.
    """
    conditions = [_Rest(*_sizes(segment), _keys(segment), place) for place, segment in enumerate(segments)]
    models, tags = ({name for one in segments for name in getattr(one, of) or ()} for of in ("models", "tags"))
    known: dict[_Names, _Open] = {}  # by the names of videos
    found_for: dict[_Names, _Open] = {}  # by those names that segments use

    def find(names: _Names) -> _Open:
        model, tag, tier = names
        named = (model if model in models else None, tag if tag in tags else None, tier)
        if len(known) >= _MAX_KNOWN:  # users choose tags freely
            known.clear()
            found_for.clear()
        found = found_for.get(named) or compare(*named)
        known[names] = found_for[named] = found  # another thread may clear the caches at any time
        return found

    def compare(model: str | None, tag: str | None, tier: str | None) -> _Open:
        found = tuple(
            rest
            for rest, segment in zip(conditions, segments, strict=True)
            if (segment.models is None or model in segment.models)
            and (segment.tags is None or tag in segment.tags)
            and (segment.tiers is None or tier in segment.tiers)
        )
        ends = [globs.ends(glob) for rest in found for glob in segments[rest.place].key_globs or ()]
        heads, tails = (tuple({pair[side] for pair in ends}) for side in (0, 1))
        return _Open(found, tuple(rest for rest in found if rest.matches is None), heads, tails)

    def choose(video: Classified) -> int:
        names = (video.model, video.tag, video.tier)
        candidates, without_keys, heads, tails = known.get(names) or find(names)
        if candidates:
            size, key = video.size_bytes, video.key if heads else None
            if size is None:
                size = _UNKNOWN_SIZE
            if key is None or not (key.startswith(heads) and key.endswith(tails)):
                key, candidates = "", without_keys
            for low, high, matches, place in candidates:
                if low <= size <= high and (matches is None or matches(key)):
                    return place
        return NO_SEGMENT

    return choose


def _sizes(segment: Segment) -> tuple[int, int]:
    """Return the minimum and maximum bytes; without such conditions, an unknown size is within."""
    low = segment.min_bytes or 0 if _asks_size(segment) else _UNKNOWN_SIZE
    return low, _MOST if segment.max_bytes is None else segment.max_bytes


def _keys(segment: Segment) -> Callable[[str], object] | None:
    return globs.matcher(segment.key_globs) if segment.key_globs else None


def contradiction(segments: Sequence[Segment], retention: Mapping[str, Sequence[int | None]]) -> str:
    """Describe contradictions, and how to correct them; empty where there are none.

    `retention` has for each tier, from the least to the most paid, the retention of each segment, and last of videos
    without a segment.
    """
    names = [segment.name for segment in segments]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        return f"two segments are named {twice[0]}: a plan could not say which of them decided"
    for segment in segments:
        if unknown := [tier for tier in segment.tiers or () if tier not in retention]:
            return f"segment {segment.name} asks for the tier {unknown[0]!r}; there are {', '.join(retention)}"
    for place, segment in enumerate(segments):
        for earlier in segments[:place]:
            # guard segments.reachable: a segment that should keep videos never matches, and they are retired
            if _implies([segment], earlier, segment.tiers or tuple(retention)):
                return (
                    f"segment {segment.name} never decides: {earlier.name} stands before it and matches all that it "
                    f"does. Put {segment.name} first, or ask less of what {earlier.name} matches"
                )
    return _worse_for_the_better(segments, retention)


def _worse_for_the_better(segments: Sequence[Segment], retention: Mapping[str, Sequence[int | None]]) -> str:
    """Find videos that users of a higher tier would lose sooner, among those matched by one or two segments."""
    for place, one in enumerate(segments):
        for other in segments[place:]:
            if (one.tiers is None and other.tiers is None) or _never_meet(one, other):
                continue
            decides = {tier: _first(segments, [one, other], tier) for tier in retention}
            kept = {tier: retention[tier][decides[tier]] for tier in retention}
            for lesser, better in pairwise(retention):
                shorter, longer = kept[lesser], kept[better]
                # guard segments.tiers: users of a higher tier lose the same videos sooner
                if longer is not None and (shorter is None or longer < shorter):
                    names = " and ".join(dict.fromkeys((one.name, other.name)))
                    return (
                        f"of the videos that segment {names} asks for, {better} users would lose theirs sooner than "
                        f"{lesser} users: {longer} days by {_named(segments, decides[better])}, "
                        f"{NEVER if shorter is None else shorter} by {_named(segments, decides[lesser])}. "
                        "Name both tiers in one segment, or give the better one as much"
                    )
    return ""


def _named(segments: Sequence[Segment], place: int) -> str:
    return "the policy" if place == NO_SEGMENT else f"segment {segments[place].name}"


def _first(segments: Sequence[Segment], narrower: Sequence[Segment], tier: str) -> int:
    """Find the first segment that certainly matches, for `tier`, what all of `narrower` match, tiers aside."""
    certain = (place for place, segment in enumerate(segments) if _implies(narrower, segment, (tier,)))
    return next(certain, NO_SEGMENT)


def _implies(narrower: Sequence[Segment], wider: Segment, tiers: Iterable[str]) -> bool:
    """Check whether every video of users of `tiers` that all of `narrower` match certainly matches `wider`."""
    if wider.tiers is not None and not set(tiers) <= set(wider.tiers):
        return False
    sizes = [(one.min_bytes, one.max_bytes) for one in narrower]
    low, high = max((low or 0 for low, _ in sizes)), min((_MOST if high is None else high for _, high in sizes))
    if low < (wider.min_bytes or 0) or high > (_MOST if wider.max_bytes is None else wider.max_bytes):
        return False
    # A condition on size requires a known size, and so must conditions that imply it.
    if _asks_size(wider) and not any(map(_asks_size, narrower)):
        return False
    return all(
        getattr(wider, name) is None or any(within(getattr(one, name), getattr(wider, name)) for one in narrower)
        for name, within in (("models", _among), ("tags", _among), ("key_globs", _covered))
    )


def _asks_size(segment: Segment) -> bool:
    return segment.min_bytes is not None or segment.max_bytes is not None


def _among(values: Sequence[str] | None, wider: Sequence[str]) -> bool:
    return values is not None and set(values) <= set(wider)


@lru_cache(10_000)  # called again with the same two for each tier and third segment
def _covered(narrow: tuple[str, ...] | None, wider: tuple[str, ...]) -> bool:
    return narrow is not None and all(any(globs.covers(wide, glob) for wide in wider) for glob in narrow)


def _never_meet(one: Segment, other: Segment) -> bool:
    """Check whether no video can match both, tiers aside."""
    for name in ("models", "tags"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is not None and theirs is not None and not set(mine) & set(theirs):
            return True
    if (
        one.key_globs
        and other.key_globs
        and all(globs.never_meet(mine, theirs) for mine in one.key_globs for theirs in other.key_globs)
    ):
        return True
    return max(one.min_bytes or 0, other.min_bytes or 0) > min(
        _MOST if segment.max_bytes is None else segment.max_bytes for segment in (one, other)
    )


def of_verdict(verdict: Verdict) -> str | None:
    """Return the name of the deciding segment; None: the policy itself decided, or it is unknown."""
    figure = verdict.figures[0] if verdict.figures else None
    if isinstance(figure, Terms):
        return figure.segment
    return of_verdict(figure) if isinstance(figure, Verdict) else None
