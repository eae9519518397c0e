"""Check jobs against hard budgets by provider, model, tier and user, and report nearly used ones. Pure.

A budget's use is the cost of its scope's jobs in the period, plus the expected cost of those in flight, which are not
stopped, and count in every period. All amounts are micro-dollars.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.money import MICRO, JobTotal
from reelkeeper.rules.core import limit_scopes
from reelkeeper.rules.core.limit_scopes import LimitScope
from reelkeeper.rules.core.wording import exact, many
from reelkeeper.rules.spend.budget import FULL, Period

RULE: Final = "spend_limit"
IN_FLIGHT: Final = ""  # the period name of jobs in flight, which count in every period
NEARLY: Final = 80  # percent
ALL: Final = "all:jobs"  # the scope of the limits that decline every new job


class SpendLimit(BaseModel):
    """The maximum dollars for the jobs of one scope in one period."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: LimitScope = Field(
        description="provider:X, model:X, tier:X or user:X; with * as X, the limit applies to each one not listed"
    )
    period: Period = Field(Period.MONTH, description="day or month, in UTC")
    usd: Annotated[Decimal, Field(ge=0, le=10**9, decimal_places=6)] = Field(
        description="Maximum cost of its jobs in the period, in dollars"
    )

    @property
    def microusd(self) -> int:
        """The same in micro-dollars."""
        return int(self.usd * MICRO)


class LimitUse(NamedTuple):
    """A limit of one scope in one of its periods, and how much of it is used."""

    scope: str
    period: Period
    period_name: str  # 2026-11-26, or 2026-11
    limit_microusd: int
    spent_microusd: int
    in_flight_microusd: int
    refusals: int

    @property
    def used_microusd(self) -> int:
        """The amount spent or in flight."""
        return self.spent_microusd + self.in_flight_microusd

    @property
    def percent(self) -> int:
        """The used share, rounded down; a limit of 0 is used up."""
        return self.used_microusd * FULL // self.limit_microusd if self.limit_microusd else FULL


class Refusal(NamedTuple):
    """A sentence on the limit that prevents a job, and when it may be requested again; None: never."""

    scope: str
    period_name: str
    sentence: str
    until: datetime | None


def check_each_once(limits: Iterable[SpendLimit]) -> None:
    """Raise ValueError if a scope has two limits for one period."""
    counts = Counter((limit.scope, limit.period) for limit in limits)
    if twice := [f"{scope} by {period}" for (scope, period), count in counts.items() if count > 1]:
        raise ValueError(f"more than one limit for {', '.join(twice)}")


def names(as_of: datetime) -> dict[Period, str]:
    """Return the names of the day and the month of a time, as in the keys of totals."""
    return {Period.DAY: f"{as_of:%Y-%m-%d}", Period.MONTH: f"{as_of:%Y-%m}"}


def applying(limits: Iterable[SpendLimit], job_scopes: Sequence[str]) -> dict[tuple[str, Period], int]:
    """Return the limits that apply to a job, in micro-dollars, by scope and period."""
    by_period: dict[Period, dict[str, int]] = {period: {} for period in Period}
    for limit in limits:
        by_period[limit.period][limit.scope] = limit.microusd
    return {
        (scope, period): microusd
        for period, of_period in by_period.items()
        for scope, microusd in limit_scopes.limits_of(job_scopes, of_period).items()
    }


def refusal(
    limits: Mapping[tuple[str, Period], int], totals: Iterable[JobTotal], cost_microusd: int, as_of: datetime
) -> Refusal | None:
    """Return the limit that a job of this cost would exceed, of several the one that lasts longest; None: none."""
    beyond = [use for use in uses_of(limits, totals, as_of) if use.used_microusd + cost_microusd > use.limit_microusd]
    if not beyond:
        return None
    use = max(beyond, key=lambda use: (cost_microusd > use.limit_microusd, _end(use.period, as_of)))
    never, left = cost_microusd > use.limit_microusd, max(use.limit_microusd - use.used_microusd, 0)
    until = None if never else _end(use.period, as_of)
    again = f"it can be asked for again from {until:%Y-%m-%d %H:%M} UTC on" if until else "a cheaper one may fit"
    sentence = (
        f"over the {'daily' if use.period is Period.DAY else 'monthly'} budget of {limit_scopes.in_words(use.scope)}: "
        f"this video is expected to cost {exact(cost_microusd)}, and {exact(left)} of {exact(use.limit_microusd)} is "
        f"left for {use.period_name}; {again}. Nothing was held"
    )
    return Refusal(use.scope, use.period_name, sentence, until)


def uses(limits: Sequence[SpendLimit], totals: Iterable[JobTotal], as_of: datetime) -> list[LimitUse]:
    """List how much of each limit is used, the fullest first: each named scope, and for `*` each scope with a total."""
    totals = list(totals)
    known = [limit.scope for limit in limits if not limit.scope.endswith(f":{limit_scopes.EACH}")]
    wanted = list(dict.fromkeys([*known, *(total.scope for total in totals)]))
    return sorted(uses_of(applying(limits, wanted), totals, as_of), key=lambda use: (-use.percent, use.scope))


def uses_of(
    limits: Mapping[tuple[str, Period], int], totals: Iterable[JobTotal], as_of: datetime
) -> Iterator[LimitUse]:
    """Yield how much of each of these limits is used."""
    by_key, period_names = {(total.scope, total.period): total for total in totals}, names(as_of)
    for (scope, period), limit in limits.items():
        name = period_names[period]
        spent, flying = by_key.get((scope, name)), by_key.get((scope, IN_FLIGHT))
        yield LimitUse(
            scope,
            period,
            name,
            limit,
            spent.microusd if spent else 0,
            # guard spend.limit_in_flight: a burst of jobs exceeds the limit before the first has a cost
            flying.microusd if flying else 0,
            spent.refusals if spent else 0,
        )


def findings(found: Iterable[LimitUse]) -> list[Finding]:
    """Report limits that are nearly used up, at 80 percent, or used up: at 100, or if a job was refused."""
    return [_finding(use) for use in found if use.percent >= NEARLY or use.refusals]


def _finding(use: LimitUse) -> Finding:
    full = use.percent >= FULL or use.refusals > 0
    whose, limit, used = limit_scopes.in_words(use.scope), exact(use.limit_microusd), exact(use.used_microusd)
    setting = "spend_limits"
    if use.scope == ALL:
        setting = "daily_limit_usd" if use.period is Period.DAY else "monthly_limit_usd"
    refused = f" {many(use.refusals, 'request')} beyond it {'was' if use.refusals == 1 else 'were'} refused."
    return Finding(
        RULE,
        use.scope,
        Severity.CRITICAL if full else Severity.WARNING,
        f"Limit of {whose} for {use.period_name} {'used up' if full else f'at {use.percent} %'}: {used} of {limit}",
        f"{exact(use.spent_microusd)} spent and {exact(use.in_flight_microusd)} in flight."
        + refused * bool(use.refusals),
        f"New jobs that do not fit are refused until it ends. To allow more: admission.{setting} in the policies.",
        figures=(("Used", used), ("Limit", limit), ("Period", use.period_name)),
        period=use.period_name,
        level=str(FULL if full else NEARLY),
    )


def _end(period: Period, as_of: datetime) -> datetime:
    midnight = as_of.replace(hour=0, minute=0, second=0, microsecond=0)
    if period is Period.DAY:
        return midnight + timedelta(days=1)
    return (midnight.replace(day=1) + timedelta(days=31)).replace(day=1)
