"""Decide when an unwell provider gets no new jobs, and when it is tried again. Pure.

    closed --attempts fail, or the account is locked--> open --after a wait--> on trial --its jobs are made--> closed
                                                          ^---one of them fails, and the wait doubles---'

Its input is the outcomes of attempts at a provider. Attempts that were refused for content or input, cancelled, not
accepted for the moment, or failed on our side say nothing about the provider's health, and do not count.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from reelkeeper.model.alerts import AlertRule, Finding, Severity
from reelkeeper.rules.core.wording import many

RULE: Final = "unwell_provider"  # the rule of the alert for an open breaker
LOCKED: Final = "locked_account"  # the rule of the alert for a locked account
_DOUBLINGS: Final = 16
_UNTRIED: Final = timedelta(days=1)
_ATTEMPTS: Final = 20  # most recent attempts that are evaluated
_FEWEST_ATTEMPTS: Final = 10  # to judge a provider: one bad clip among few says little
_WINDOW: Final = timedelta(minutes=30)  # an older attempt says nothing about a provider's health now
_SLOW_TIMES: Final = 10.0  # a video that took this many times its estimate is of no use to whoever waits for it
_WAIT_SECONDS: Final = 60  # without jobs before the provider is tried again; doubled after each failure
_LONGEST_WAIT_SECONDS: Final = 1800
TRIAL_JOBS: Final = 2  # all of which must be made; one could be luck


class BreakerPolicy(BaseModel):
    """The threshold at which a provider gets no new jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bad_percent: int | None = Field(
        50,
        ge=1,
        le=100,
        description="Percentage of a provider's recent attempts, failed or slow, from which it gets no new jobs; "
        "never: only if it locks the account",
    )


class Outcome(StrEnum):
    """The outcome of an attempt, as far as it matters for its provider's health."""

    MADE = "made"
    SLOW = "slow"  # made, but far too late
    FAILED = "failed"  # or lost, in doubt, or not reached
    LOCKED = "locked"  # the provider accepts nothing of our account


class Phase(StrEnum):
    """Which jobs a provider gets."""

    CLOSED = "closed"  # all jobs
    OPEN = "open"  # none
    TRIAL = "trial"  # a few


class Attempt(NamedTuple):
    """A finished attempt."""

    at: AwareDatetime
    outcome: Outcome


class Breaker(BaseModel):
    """The state of a provider's breaker, as stored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    recent: tuple[Attempt, ...] = ()  # while it is closed
    why: str = ""  # why it was opened
    since: AwareDatetime | None = None  # None: it is closed
    until: AwareDatetime | None = None
    openings: int = 0  # since it was last closed
    trials: tuple[str, ...] = ()  # the trial jobs
    made: int = 0  # trial jobs made

    def phase(self, as_of: datetime) -> Phase:
        """Return the phase at a moment."""
        if self.until is None:
            return Phase.CLOSED
        return Phase.OPEN if as_of < self.until else Phase.TRIAL

    def is_forgotten(self, as_of: datetime) -> bool:
        """Check whether no job has tried it for a day although one could have: it is hardly used any more."""
        return self.until is not None and as_of - self.until > _UNTRIED

    def room(self, at_work: Collection[str]) -> int:
        """Return how many trial jobs may be begun while the jobs `at_work` are running."""
        return max(TRIAL_JOBS - self.made - len({*self.trials} & {*at_work}), 0)

    def trying(self, job_ids: Collection[str]) -> Self:
        """Record the trial jobs."""
        return self.model_copy(update={"trials": tuple(dict.fromkeys((*self.trials, *job_ids)))})


def judge(seconds: float | None, estimate_seconds: float) -> Outcome:
    """Decide whether a video was made in time; yes if the time is unknown."""
    is_slow = seconds is not None and seconds > _SLOW_TIMES * estimate_seconds
    return Outcome.SLOW if is_slow else Outcome.MADE


def after(
    breaker: Breaker, outcome: Outcome, job_id: str, error: str, as_of: datetime, policy: BreakerPolicy
) -> Breaker:
    """Return the state after an attempt's end; `error` is the reason for its failure.

    While a provider gets no job, or only trial jobs, only its trial jobs count: the others were sent before.
    """
    if breaker.until is None:
        return _closed(breaker, outcome, error, as_of, policy)
    # guard breaker.trials: a job that was sent before the breaker opened closes it when it is made
    if job_id not in breaker.trials:
        return breaker
    if outcome is not Outcome.MADE:
        return _opened(breaker, _why(outcome, error), as_of)
    if breaker.made + 1 >= TRIAL_JOBS:
        return Breaker()
    left = tuple(other for other in breaker.trials if other != job_id)
    return breaker.model_copy(update={"made": breaker.made + 1, "trials": left})


def _closed(breaker: Breaker, outcome: Outcome, error: str, as_of: datetime, policy: BreakerPolicy) -> Breaker:
    kept = [attempt for attempt in breaker.recent if attempt.at > as_of - _WINDOW]
    recent = (*kept, Attempt(as_of, outcome))[-_ATTEMPTS:]
    if outcome is Outcome.LOCKED:
        return _opened(breaker, _why(outcome, error), as_of)
    bad = sum(attempt.outcome is not Outcome.MADE for attempt in recent)
    is_known, is_bad = len(recent) >= _FEWEST_ATTEMPTS, outcome is not Outcome.MADE
    if policy.bad_percent and is_known and is_bad and bad * 100 >= policy.bad_percent * len(recent):
        slow = sum(attempt.outcome is Outcome.SLOW for attempt in recent)
        too_late = f", {slow} of them for coming far too late" if slow else ""
        why = f"{bad} of its last {many(len(recent), 'attempt')} failed{too_late}; the last: {_why(outcome, error)}"
        return _opened(breaker, why, as_of)
    return breaker.model_copy(update={"recent": recent})


def _opened(breaker: Breaker, why: str, as_of: datetime) -> Breaker:
    wait = min(_WAIT_SECONDS << min(breaker.openings, _DOUBLINGS), _LONGEST_WAIT_SECONDS)
    return Breaker(
        why=why, since=breaker.since or as_of, until=as_of + timedelta(seconds=wait), openings=breaker.openings + 1
    )


def _why(outcome: Outcome, error: str) -> str:
    return "its video came far too late" if outcome is Outcome.SLOW else error[:500]


def news(provider: str, before: Breaker, outcome: Outcome, now: Breaker) -> list[Finding]:
    """Make the findings that a provider gets no new jobs, once until it is well, and that our account is locked."""
    if now.until is None or now is before:
        return []
    if outcome is Outcome.LOCKED:
        return [_locked_account(provider, now.why)]
    if before.until is not None:
        return []
    return [
        _finding(
            RULE,
            provider,
            f"The provider {provider} is unwell and gets no new job",
            f"{now.why}. What it has already is looked after. After a wait a few jobs try it; once they are made, "
            "it gets all again by itself. Jobs of a model with another provider go there meanwhile.",
            "See the provider's status page; `reelkeeper status` says when it is tried next.",
        )
    ]


def _locked_account(provider: str, reason: str) -> Finding:
    return _finding(
        LOCKED,
        provider,
        f"The provider {provider} lets our account in no more",
        f"{reason}. No job is blamed for it: they wait, or go to another provider, and a few try again.",
        f"Look at its balance, limits and key (REELKEEPER_{provider.upper()}_TOKEN) in the provider's console.",
    )


def _finding(rule: AlertRule, provider: str, title: str, text: str, suggestion: str) -> Finding:
    return Finding(rule, f"provider:{provider}", Severity.CRITICAL, title, text, suggestion)
