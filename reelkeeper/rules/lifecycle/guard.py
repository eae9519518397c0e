"""Limit how much one run may retire. All limits are checked before the first change; 0 allows nothing.

Only retirements are limited here: compressed videos stay, and `compress_limit` of the policy bounds that work.
`always_allowed` exempts a few objects from the percentages, which mean little for a small catalogue, but never from
`max_objects` or `max_bytes`. Over 24 hours it counts all retirements, so that hourly runs of a few objects each cannot
drain the bucket.
"""

import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil, floor
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.errors import GuardRefused
from reelkeeper.model import Counts, PlanSummary
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.core.wording import many, size

NOTHING_CHANGED: Final = "refused, and nothing was changed: "  # the opening of each refusal
ONCE_LIVE: Final = "  a trial carries out no plan; once live, wider limits or `reelkeeper approve` allow such a one"
OVERRIDE: Final = "  override: "  # before what would allow it, which ends a refusal
MAKING: Final = {"max_user_percent", "always_allowed"}  # limits that decide what a plan has; others only judge it
_USERS_NAMED = 3  # of the most affected users, in a refusal
_SAMPLES = 5
_ANY_TIME: Final = datetime.min.replace(tzinfo=UTC)


def _percent(default: float, what: str, least: float = 0) -> float:
    field: float = Field(default, ge=least, le=100, allow_inf_nan=False, description=what)
    return field


class BlastRadius(BaseModel):
    """The most that one run may retire. 0 allows nothing; without a value there is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_objects: int = Field(
        500,
        ge=0,
        le=10**9,
        description="Maximum number of videos that one run may retire; a larger plan is refused, not cut to size",
    )
    max_percent: float = _percent(5, "Maximum percentage of all live videos that one run may retire")
    max_bytes: int = Field(50 * 10**9, ge=0, le=10**18, description="Maximum number of bytes that one run may retire")
    max_user_percent: float = _percent(
        20, "Maximum percentage of one user's live videos that one run retires; the rest wait for the next"
    )
    max_percent_in_24h: float = _percent(
        10, "Maximum percentage of all live videos that may be retired in 24 hours, by all runs"
    )
    always_allowed: int = Field(
        3, ge=0, le=100, description="Number of videos that is allowed whatever the percentage limits say"
    )
    min_population_percent: float = _percent(
        80,
        "Minimum percentage of the live videos that the last good run left, or of the objects that a listing "
        "should show, that must be found",
        1,
    )


class _Breach(NamedTuple):
    """One exceeded limit. `enough` is the least value that would allow the plan; None if no value would."""

    field: str
    text: str
    enough: float | None


def within(
    limits: BlastRadius,
    plan: PlanSummary,
    retired_in_24h: int,
    last_population: int | None,
    *,
    given: Mapping[str, str] | None = None,
) -> None:
    """Raise GuardRefused, with every limit that `plan` exceeds, the figures and the override.

    Args:
        limits: the limits.
        plan: the saved plan.
        retired_in_24h: videos that all runs retired in the last 24 hours.
        last_population: live videos after the last successful run; None before the first.
        given: parameters of the run, which the override keeps, as `--param` takes them.

    """
    limits = _as_approved(limits, plan)
    # guard guard.doubts: percentages of impossible figures allow a run
    # guard guard.excesses: one run retires more than the limits allow
    breaches = [*_doubts(limits, plan, last_population), *_excesses(limits, plan, retired_in_24h)]
    if breaches:
        raise _refused(plan, breaches, f"--apply --plan {plan.id}", given)


def excesses(limits: BlastRadius, retire: Counts, population: Counts) -> dict[str, str]:
    """Say which limits one run would exceed that retires so much, whoever's it is; the limit's name and the figures."""
    plan = PlanSummary("", "", _ANY_TIME, population, retire, Counts(0, 0))
    return {breach.field: breach.text for breach in _excesses(limits, plan, 0)}


def purge_within(
    limits: BlastRadius, plan: PlanSummary, last_population: int | None, *, given: Mapping[str, str] | None = None
) -> None:
    """Raise GuardRefused when `plan`, a purge of blobs whose grace is over, may not be carried out.

    Retirements were limited when they were made, and the plan itself limits how many videos one run purges; so this
    only checks whether anything may be purged at all, and whether the catalogue is complete.
    """
    limits = _as_approved(limits, plan)
    breaches = list(_shrunken(limits, plan, last_population))
    # guard guard.purge_zero: a limit of 0 lets a purge run
    if plan.retire.objects:
        zeros = (name for name, limit in limits if name.startswith("max_") and limit == 0)
        breaches += [
            _Breach(name, f"{many(plan.retire.objects, 'blob')}, limit 0", BlastRadius.model_fields[name].default)
            for name in zeros
        ]
    if breaches:
        raise _refused(plan, breaches, "--apply", given)  # another max_objects needs a new plan


def listing_within(limits: BlastRadius, listed: int, expected: int, *, given: Mapping[str, str] | None = None) -> None:
    """Raise GuardRefused when a listing shows too few of the objects that the catalogue expects.

    Half a listing, or the wrong bucket, would mark the rest as lost.
    """
    # guard guard.listing: half a listing marks the other half of the videos as lost
    if expected - listed > limits.always_allowed and _below(listed, limits.min_population_percent, expected):
        enough = _round_down(listed, expected)
        raise GuardRefused(
            f"{NOTHING_CHANGED}the listing shows {many(listed, 'object')} where the catalogue expects "
            f"{expected:,}; limits.min_population_percent={limits.min_population_percent:g} allows no fewer.\n"
            "  Look first at REELKEEPER_BUCKET, REELKEEPER_PREFIX and `reelkeeper doctor`.\n"
            + (
                f"{OVERRIDE}{_command('sync_catalog', '--apply', given, {'min_population_percent': enough})}"
                if enough >= 1
                else f"{OVERRIDE}none, since nearly nothing is there"
            )
        )


def enough_expected(limits: BlastRadius, deleted: int, before: int) -> int | None:
    """Return how many expected objects `listing_within` needs to allow `deleted` ones after those `before`.

    With more it allows them, too, so that these need not be counted. None: no number is.
    """
    share = _exact(limits.min_population_percent) / 100
    return ceil((deleted + share * before) / (1 - share)) if share < 1 else None


def refused(plan: PlanSummary, refusal: str) -> Finding:
    """Make the finding for a refused plan, with the guard's message. Each plan is reported once."""
    return Finding(
        rule=alerting.PLAN_REFUSED,
        scope=alerting.scope(plan.flow),
        period=plan.id,
        severity=Severity.WARNING,
        title=f"{plan.flow} was refused: {_selection(plan)}",
        text=refusal,
        suggestion="If that is meant, approve this plan once; else look at what has changed: the policy, the views, "
        "the users' tiers",
        figures=(("Plan", plan.id),),
    )


def _as_approved(limits: BlastRadius, plan: PlanSummary) -> BlastRadius:
    """Widen the limits to the figures that an operator has approved for this plan."""
    wider = {
        # guard guard.approved: an approval of one plan's figures allows larger ones
        name: (min if name == "min_population_percent" else max)(getattr(limits, name), figure)
        for name, figure in plan.approved.items()
    }
    return limits.model_copy(update=wider)


def _doubts(limits: BlastRadius, plan: PlanSummary, last_population: int | None) -> Iterator[_Breach]:
    """Find inconsistent figures, for which percentages are meaningless."""
    population, by_user = plan.population.objects, sum(counts.objects for counts in plan.retire_by_user.values())
    if plan.retire.objects + plan.compress.objects > population:
        text = f"{plan.retire.objects + plan.compress.objects:,} selected of a population of {population:,}"
        yield _Breach("population", f"{text}: one of the two is wrong", None)
    if by_user != plan.retire.objects:
        text = f"{plan.retire.objects:,} selected, but {by_user:,} counted by user"
        yield _Breach("retire_by_user", f"{text}: one of the two is wrong", None)
    yield from _shrunken(limits, plan, last_population)


def _shrunken(limits: BlastRadius, plan: PlanSummary, last_population: int | None) -> Iterator[_Breach]:
    population = plan.population.objects
    if (
        # guard guard.shrunken: percentages are taken of half a catalogue
        last_population is not None
        and last_population - population > limits.always_allowed
        and _below(population, limits.min_population_percent, last_population)
    ):
        enough = _round_down(population, last_population)
        text = f"{many(population, 'live video')}, where the last good run left {last_population:,}"
        yield _Breach(
            "min_population_percent",
            f"{text}; at least {limits.min_population_percent:g} % must be there",
            enough if enough >= 1 else None,
        )


def _excesses(limits: BlastRadius, plan: PlanSummary, retired_in_24h: int) -> Iterator[_Breach]:
    selected, population = plan.retire.objects, plan.population.objects
    if selected == 0:
        return
    # guard guard.objects: one run retires too many videos
    if selected > limits.max_objects:
        yield _Breach("max_objects", f"{many(selected, 'video')}, limit {limits.max_objects:,}", selected)
    # guard guard.bytes: one run retires too many bytes
    if plan.retire.size_bytes > limits.max_bytes or limits.max_bytes == 0:
        shown = [size(plan.retire.size_bytes), size(limits.max_bytes)]
        if shown[0] == shown[1]:  # they differ by less than that
            shown = [f"{plan.retire.size_bytes:,} bytes", f"{limits.max_bytes:,}"]
        yield _Breach("max_bytes", f"{shown[0]}, limit {shown[1]}", max(plan.retire.size_bytes, 1))
    # guard guard.percent: one run retires too large a share
    if _exceeds(limits, limits.max_percent, selected, population):
        yield _Breach("max_percent", *_share(selected, population, "live videos", limits.max_percent))

    users = {user: (counts.objects, plan.live_by_user.get(user, 0)) for user, counts in plan.retire_by_user.items()}
    hit = {user: _percentage(*n) for user, n in users.items() if _exceeds(limits, limits.max_user_percent, *n)}
    # guard guard.user_percent: one user loses too large a share
    if hit:
        worst = sorted(hit, key=lambda user: (-hit[user], user))
        named = ", ".join("user '{}' {:,} of {:,}".format(user, *users[user]) for user in worst[:_USERS_NAMED])
        text = f"{many(len(hit), 'user')} above {limits.max_user_percent:g} % of their videos, the worst: {named}"
        yield _Breach("max_user_percent", text, _possible(hit[worst[0]]))

    in_24h, before = selected + max(retired_in_24h, 0), population + max(retired_in_24h, 0)
    # guard guard.in_24h: hourly runs of a few videos each drain the bucket
    if _exceeds(limits, limits.max_percent_in_24h, in_24h, before):
        text, enough = _share(in_24h, before, "videos in 24 hours", limits.max_percent_in_24h)
        yield _Breach("max_percent_in_24h", text, enough)


def _exceeds(limits: BlastRadius, percent: float, part: int, whole: int) -> bool:
    """Return whether `part` is a larger share of `whole` than `percent`, unless that number is always allowed."""
    if part == 0 or (percent > 0 and part <= limits.always_allowed):
        return False
    return part * 100 > _exact(percent) * whole or percent == 0


def _below(part: int, percent: float, whole: int) -> bool:
    return part * 100 < _exact(percent) * whole


def _exact(percent: float) -> Fraction:
    return Fraction(str(percent))  # 0.3 means 3/10, not the nearest float


def _percentage(part: int, whole: int) -> Fraction:
    return Fraction(part * 100, whole) if whole else Fraction(10**9)


def _share(part: int, whole: int, of_what: str, limit: float) -> tuple[str, float | None]:
    share = _percentage(part, whole)
    return f"{part:,} of {whole:,} {of_what} ({float(share):.2f} %), limit {limit:g} %", _possible(share)


def _possible(share: Fraction) -> float | None:
    """Round a share up to the precision of a percentage field; None where it is above 100 %."""
    return ceil(share * 100) / 100 if share <= 100 else None  # noqa: PLR2004  percent


def _round_down(part: int, whole: int) -> float:
    return floor(Fraction(part * 100, max(whole, 1)) * 100) / 100


def _selection(plan: PlanSummary) -> str:
    return f"{plan.retire.objects:,} of {many(plan.population.objects, 'live video')}, {size(plan.retire.size_bytes)}"


def _command(flow: str, apply: str, given: Mapping[str, str] | None, widening: Mapping[str, float]) -> str:
    """Write the command of a run with the parameters that it was given, and wider limits."""
    params = {**(given or {}), **{f"limits.{name}": f"{figure}" for name, figure in widening.items()}}
    words = [f"--param {shlex.quote(f'{name}={value}')}" for name, value in params.items()]
    return " ".join(["reelkeeper run", flow, apply, *words])


def _refused(plan: PlanSummary, breaches: list[_Breach], apply: str, given: Mapping[str, str] | None) -> GuardRefused:
    widening = {breach.field: breach.enough for breach in breaches if breach.enough is not None}
    lines = [f"{NOTHING_CHANGED}{plan.flow} selected {_selection(plan)}"]
    lines += [f"  {breach.field}: {breach.text}" for breach in breaches]
    lines.append(f"  for example: {', '.join(plan.samples[:_SAMPLES]) or 'no samples'}")
    lines.append(f"  plan: {plan.id}")
    # guard guard.no_widening: a plan with impossible figures can be approved
    if len(widening) < len(breaches):
        lines.append(
            f"{OVERRIDE}none, since these figures cannot be right: run `reelkeeper run sync_catalog`, then plan anew"
        )
        return GuardRefused("\n".join(lines))
    lines.append(f"{OVERRIDE}{_command(plan.flow, apply, given, widening)}")
    return GuardRefused("\n".join(lines), widening)
