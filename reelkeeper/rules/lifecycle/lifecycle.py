"""Decide which cold videos are compressed, retired or kept: a total function from a video to a verdict.

The first matching rule decides, in this order:

    held                a hold is in force
    unknown_age         no creation time, so its age is unknown
    future_created      created after `as_of`: a clock is wrong
    unknown_tier        its user's tier, and so the promise, is unknown
    past_retention      RETIRE    older than the user's tier keeps videos; views do not count
    cold_rules_off      both rules for cold videos are off
    kept_on_request     past its retention or cold, but its user's request to keep it is still in force
    too_young           for every rule that is on
    unknown_views       unknown is not zero
    cold_retire         RETIRE    rarely viewed, and old
    still_watched       viewed often enough to stay as it is
    compressed_before   cold, but already compressed: another lossy pass would degrade it again
    already_efficient   cold, but its codec leaves little to gain
    refused_before      cold, but already refused with this recipe; this month, if it would not have paid
    does_not_pay        cold, but an encode would cost more than it saves until these rules have it deleted
    cold_compress       COMPRESS  rarely viewed, and no longer new

If results are put in place, `selection` keeps some of the last: `too_large_in_place`,
`not_in_place`, `locked_in_place`. It has a few of those that do not pay compressed: `tried_to_learn`.

"Above 7 days" is an age of more than 7 x 24 hours; "below 5 views" is 4 or fewer in the trailing 30 days.
The first matching segment of the policy sets these limits for a video: see `segments`.
`tier_storage` acts on the cold rules and `expire_videos` on `past_retention`: see `selection`. Retirements for
users who were promised notice wait for it: see `notices`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, cached_property
from typing import Final, Self

from pydantic import ConfigDict, Field, model_validator

from reelkeeper.errors import PolicyRefused
from reelkeeper.model import Action, Grace, Verdict, Video
from reelkeeper.rules.core.tiers import MAX_DAYS, Tiers
from reelkeeper.rules.core.wording import NOT_TRIED, Terms, dollars
from reelkeeper.rules.lifecycle import segments as rules
from reelkeeper.rules.lifecycle.segments import MAX_SEGMENTS, NO_SEGMENT, Classified, FieldsOnly, Segment
from reelkeeper.rules.lifecycle.transcode import EFFICIENT_CODECS, OWN_RESULT, mark_of_month
from reelkeeper.rules.lifecycle.worth import Stay, Worth

Appraise = Callable[[int, Stay], Worth]
Judge = Callable[[Video], Verdict]
VIEW_WINDOW_DAYS: Final = 30  # `Video.views` counts this many days up to as_of
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)  # nothing was created before this


def _days(default: int, what: str) -> int:
    field: int = Field(default, ge=1, le=MAX_DAYS, description=what)
    return field


class LifecyclePolicy(FieldsOnly):
    """Ages at which a video is compressed or retired as cold. `never` switches a rule off; 0 is refused.

    The retention of videos is a field of the user's tier, or of a segment that overrides it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    compress_below_views: int | None = Field(
        5, ge=1, le=10**9, description="Compress videos with fewer views than this in 30 days; never: compress none"
    )
    compress_after_days: int = _days(7, "Compress only videos older than this")
    retire_below_views: int | None = Field(
        1, ge=1, le=10**9, description="Retire videos with fewer views than this in 30 days; never: retire none as cold"
    )
    retire_after_days: int = _days(30, "Retire as cold only videos older than this")
    grace_days: int = Field(
        7, ge=1, le=365, description="Days for which a retired video can be restored before its bytes are purged"
    )
    grace_days_service_keys: int = Field(
        14,
        ge=1,
        le=365,
        description="The same for bytes at the service's own keys, which the service may overwrite in the meantime",
    )
    keep_times: int = Field(
        3, ge=1, le=1_000, description="Maximum number of times that a video's retention can be extended"
    )
    count_deleted_until_purged: bool = Field(
        False,
        description="Count a video that its user deleted towards the quota until its bytes are purged; false: its "
        "bytes are free at once",
    )
    compress_limit: int = Field(
        500,
        ge=1,
        le=10**6,
        description="Maximum number of videos that one run compresses, the largest first; the rest wait for the next "
        "run",
    )
    compress_usd_per_day: Decimal | None = Field(
        Decimal(5),
        gt=0,
        le=10**6,
        decimal_places=6,
        strict=False,  # a saved plan has it as text
        description="Maximum cost of compression per UTC day, in dollars of CPU and requests, over all workers; the "
        "rest is left for a later plan. Never: no cap",
    )
    segments: tuple[Segment, ...] = Field(
        (),
        max_length=MAX_SEGMENTS,
        strict=False,  # a saved plan has a list
        description="Groups of videos with limits of their own, in order: the first that matches decides, and the plan "
        "names it. Each has a name, conditions (models, key_globs, tags, tiers, min_bytes, max_bytes) and overrides "
        "(retention_days, compress_below_views, compress_after_days, retire_below_views, retire_after_days)",
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        self.require_sense()
        for segment, policy in zip(self.segments, self.by_segment, strict=True):
            try:
                policy.require_sense()
            except ValueError as error:
                raise ValueError(f"in segment {segment.name}, {error}") from None
        return self

    def contradiction(self, tiers: Tiers) -> str:
        """Explain how the segments contradict these tiers, and how to correct that; empty if they do not."""
        if not self.segments:
            return ""
        kept = [*(segment.tiers_of(tiers).retention_days() for segment in self.segments), tiers.retention_days()]
        return rules.contradiction(self.segments, {name: [days[name] for days in kept] for name in tiers.names})

    def require_sense(self) -> None:
        """Raise ValueError if the fields contradict one another, segments aside."""
        if (
            self.compress_below_views is not None
            and self.retire_below_views is not None
            and self.retire_below_views >= self.compress_below_views
            and self.retire_after_days <= self.compress_after_days
        ):
            raise ValueError(
                f"nothing could ever be compressed: retire_below_views={self.retire_below_views} with "
                f"retire_after_days={self.retire_after_days} retires every video that compress_below_views="
                f"{self.compress_below_views} with compress_after_days={self.compress_after_days} names. "
                "Set compress_below_views to never if that is meant"
            )

    @cached_property
    def by_segment(self) -> tuple["LifecyclePolicy", ...]:
        """Return the effective policy for the videos of each segment."""
        fields = {name: self.__dict__[name] for name in type(self).model_fields}
        return tuple(LifecyclePolicy.model_construct(**fields | segment.overrides()) for segment in self.segments)

    @cached_property
    def choose(self) -> Callable[[Classified], int]:
        """Return a function that finds the index of a video's segment, or NO_SEGMENT."""
        return rules.chooser(self.segments) if self.segments else lambda _video: NO_SEGMENT

    def segment_of(self, video: Classified) -> str | None:
        """Return the name of the segment that decides about a video; None: the policy itself decides."""
        place = self.choose(video)
        return None if place == NO_SEGMENT else self.segments[place].name

    def for_video(self, video: Classified) -> "LifecyclePolicy":
        """Return the effective policy for a video, by its deciding segment."""
        place = self.choose(video)
        return self if place == NO_SEGMENT else self.by_segment[place]

    def tiers_for(self, video: Classified, tiers: Tiers) -> Tiers:
        """Return the effective tiers for a video: with its segment's retention, where it sets one."""
        place = self.choose(video)
        return tiers if place == NO_SEGMENT else self.segments[place].tiers_of(tiers)

    def tiers_within(self, segment: str | None, tiers: Tiers) -> Tiers:
        """Return the effective tiers for the videos of the segment of this name; None: for those without a segment."""
        return next((named.tiers_of(tiers) for named in self.segments if named.name == segment), tiers)

    @property
    def grace(self) -> Grace:
        """The grace of retired bytes, by whose key they have."""
        return Grace(self.grace_days, self.grace_days_service_keys)

    def require_active(self, flow: str) -> None:
        """Raise PolicyRefused unless a rule for cold videos is on: an empty policy is a mistake."""
        policies = (self, *self.by_segment)
        if all(policy.compress_below_views is None and policy.retire_below_views is None for policy in policies):
            raise PolicyRefused(
                f"empty policy: compress_below_views and retire_below_views are all never, so {flow} could do nothing. "
                f"Switch one on, or pause the schedule of {flow}"
            )

    def require_retention(self, tiers: Tiers, flow: str) -> None:
        """Raise PolicyRefused unless some tier or segment has a limited retention."""
        if not any(isinstance(segment.retention_days, int) for segment in self.segments):
            tiers.require_retention(flow)


def verdicts(
    videos: Iterable[Video],
    policy: LifecyclePolicy,
    tiers: Tiers,
    as_of: datetime,
    recipe_fingerprint: str,
    efficient_codecs: Collection[str] = EFFICIENT_CODECS,
    worth: Appraise | None = None,
) -> Iterator[Verdict]:
    """Judge a stream of videos. `as_of` is aware; `recipe_fingerprint` is that of the present recipe.

    `efficient_codecs` are those that the recipe skips, `worth` values an encode by its bytes and their stay;
    without it, every encode pays.
    """
    return map(judging(policy, tiers, as_of, recipe_fingerprint, efficient_codecs, worth), videos)


def judging(
    policy: LifecyclePolicy,
    tiers: Tiers,
    as_of: datetime,
    recipe: str,
    efficient: Collection[str],
    worth: Appraise | None = None,
    *,
    like: Video | None = None,
) -> Judge:
    """Make a function that judges one video, by its segment.

    `recipe` is the mark of the present recipe, `efficient` the codecs that it skips. With `like`, it judges any video,
    such as one of another size, as if it were in the segment of that one.
    """
    if as_of.tzinfo is None:
        raise ValueError(f"as_of={as_of} has no time zone")
    rest = as_of, recipe, frozenset(efficient), worth

    @cache
    def of_segment(place: int) -> Judge:
        if place == NO_SEGMENT:
            return _judge_by(policy, tiers, *rest)
        segment = policy.segments[place]
        return _judge_by(policy.by_segment[place], segment.tiers_of(tiers), *rest, segment.name)

    if like is not None:
        return of_segment(policy.choose(like))
    if not policy.segments:
        return of_segment(NO_SEGMENT)
    # guard segments.decides: a video that a segment keeps is retired by the policy's own limits
    place_of = policy.choose
    return lambda video: of_segment(place_of(video))(video)


def _judge_by(  # noqa: C901  a flat list of cases, counted as deep
    policy: LifecyclePolicy,
    tiers: Tiers,
    as_of: datetime,
    recipe: str,
    efficient: frozenset[str],
    worth: Appraise | None,
    segment: str | None = None,
) -> Judge:
    """Make a function that judges one video by these limits alone, each converted to a cutoff for `created_at`."""
    compress_views, retire_views = policy.compress_below_views or 0, policy.retire_below_views or 0
    compress_cutoff = _before(as_of, policy.compress_after_days) if compress_views else _EARLIEST
    retire_cutoff = _before(as_of, policy.retire_after_days) if retire_views else _EARLIEST
    youngest_cutoff = max(compress_cutoff, retire_cutoff)
    retention_cutoffs = {name: _before(as_of, days) for name, days in tiers.retention_days().items()}

    keep, compress, retire = Action.KEEP, Action.COMPRESS, Action.RETIRE
    refused = refusals(recipe, as_of)
    figures = (_terms(policy, tiers, as_of, segment),)  # turned into a sentence only when one is read

    def judge_one(video: Video) -> Verdict:  # noqa: C901, PLR0911, PLR0912  one return for each line of the table above
        created_at = video.created_at
        # guard rules.held: a held video is planned for retirement
        if video.held:
            return Verdict(video, keep, "held", figures)
        # guard rules.unknown_age: a video of unknown age is planned for retirement
        if created_at is None or created_at.tzinfo is None:
            return Verdict(video, keep, "unknown_age", figures)
        # guard rules.future: a video is judged by a wrong clock
        if created_at > as_of:
            return Verdict(video, keep, "future_created", figures)
        retention_cutoff = retention_cutoffs.get(video.tier)  # type: ignore[arg-type]  # None is no tier's name
        # guard rules.unknown_tier: a video is judged although its user's tier is unknown
        if retention_cutoff is None:
            return Verdict(video, keep, "unknown_tier", figures)
        kept_until = video.kept_until
        if created_at < retention_cutoff:
            # guard rules.kept: a video past its retention is planned for retirement although its user asked to keep it
            if kept_until is not None and kept_until > as_of:
                return Verdict(video, keep, "kept_on_request", figures)
            return Verdict(video, retire, "past_retention", figures)

        if created_at >= youngest_cutoff:
            return Verdict(video, keep, "too_young" if compress_views or retire_views else "cold_rules_off", figures)
        views = video.views
        # guard rules.unknown_views: unknown views count as none
        if views is None or views < 0:
            return Verdict(video, keep, "unknown_views", figures)
        if views < retire_views and created_at < retire_cutoff:
            # guard rules.kept_cold: a cold video is planned for retirement although its user asked to keep it
            if kept_until is not None and kept_until > as_of:
                return Verdict(video, keep, "kept_on_request", figures)
            return Verdict(video, retire, "cold_retire", figures)
        if views >= compress_views or created_at >= compress_cutoff:
            return Verdict(video, keep, "still_watched", figures)
        # guard rules.compressed_before: a result is compressed again in each run, and degrades each time
        if video.compressed:
            return Verdict(video, keep, "compressed_before", figures)
        if video.codec in efficient:
            return Verdict(video, keep, "already_efficient", figures)
        if video.refused_recipe in refused:
            return Verdict(video, keep, "refused_before", figures)
        if worth is None:
            return Verdict(video, compress, "cold_compress", figures)
        expected = worth(video.size_bytes, stay(policy, tiers, as_of, video.tier, created_at, is_ours=video.is_ours))
        shown = (*figures, expected)
        action, rule = (compress, "cold_compress") if expected.pays else (keep, "does_not_pay")
        return Verdict(video, action, rule, shown)

    return judge_one


def stay(
    policy: LifecyclePolicy, tiers: Tiers, as_of: datetime, tier: str | None, created_at: datetime, *, is_ours: bool
) -> Stay:
    """Return how long these limits leave a video that they do not retire now.

    A request to keep it, a hold or a late notice only extends its life, and is not counted; a notice in time does not.
    """
    rest_days, age = tiers.remaining_days(tier, created_at, as_of), (as_of - created_at).days
    grace_days = policy.grace_days if is_ours else policy.grace_days_service_keys
    if not policy.retire_below_views:
        return Stay(rest_days, grace_days)
    # old enough to be retired, it is not as it has views in the window: on its first day, at least
    watched_days = max(0, age - VIEW_WINDOW_DAYS) if age > policy.retire_after_days else 0
    return Stay(rest_days, grace_days, max(0, policy.retire_after_days - age), watched_days)


def refusals(recipe: str, as_of: datetime) -> tuple[str, ...]:
    """Return the marks of videos that are not encoded again: for good, or this month."""
    return recipe, mark_of_month(recipe, as_of), OWN_RESULT


def _terms(policy: LifecyclePolicy, tiers: Tiers, as_of: datetime, segment: str | None) -> Terms:
    return Terms.of(
        as_of,
        VIEW_WINDOW_DAYS,
        (policy.compress_below_views, policy.compress_after_days),
        (policy.retire_below_views, policy.retire_after_days),
        tiers.retention_days(),
        segment,
    )


def _before(as_of: datetime, days: int | None) -> datetime:
    """Return the cutoff: videos created before it are older than `days`."""
    if days is None:
        return _EARLIEST
    try:
        return as_of - timedelta(days=days)
    except OverflowError:
        return _EARLIEST


def reason(verdict: Verdict) -> str:
    """Explain a verdict in one sentence with the figures, for plans and the audit record."""
    match verdict.figures:
        case (Terms() as terms,):
            return terms.sentence(verdict.rule, verdict.video)
        case (Terms() as terms, Worth() as worth):
            sentence = terms.sentence(verdict.rule, verdict.video)
            return sentence if verdict.rule == "cold_compress" else f"{sentence}; {worth.sentence()}"
        case (Verdict() as left,):
            head, is_gated = verdict.rule.replace("_to_", " to "), verdict.rule == "contract_not_tried"
            return f"{reason(left)}; {NOT_TRIED}" if is_gated else f"{head}: {reason(left)}"
        case (Verdict() as left, int(limit)):
            return f"left to the next run, not among the {limit} largest: {reason(left)}"
        case (Verdict() as left, int(cost), int(rest)):
            money = (
                f"it is expected to cost {dollars(cost)}, and {dollars(rest)} of today's compress_usd_per_day is left"
            )
            return f"left to another day: {money}; {reason(left)}"
    return verdict.rule.replace("_", " ")
