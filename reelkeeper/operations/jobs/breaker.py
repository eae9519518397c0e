"""Keep a circuit breaker for each provider: a failing one gets no new jobs, raises one alert, and is tried again.

Its state is in the store, so all workers share it. Jobs that a provider already has are still followed.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.core.policies import in_force
from reelkeeper.rules.jobs.breaker import LOCKED, RULE, TRIAL_JOBS, Breaker, Outcome, Phase, after, judge, news
from reelkeeper.store import Engine, Session, SQLAlchemyError
from reelkeeper.store.billing import job_totals
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.jobs import breakers

_log = logging.getLogger(__name__)


class Resting(NamedTuple):
    """A provider that gets no job, or only those of its trial."""

    breaker: Breaker
    phase: Phase
    room: int


@contextmanager
def of_no_matter(job_id: str) -> Iterator[None]:
    """Continue where the store fails to record an outcome."""
    try:
        yield
    except SQLAlchemyError:
        _log.warning("the outcome of job %s could not be recorded for its provider's breaker", job_id, exc_info=True)


def note_made(
    engine: Engine, provider: str, job_id: str, seconds: float | None, estimate_seconds: float, *, run_id: str
) -> None:
    """Record a video that a provider has made, and the seconds that it took, where these are known."""
    with transaction(engine, "breaker.made") as session:
        outcome = judge(seconds, estimate_seconds)
        _note(session, provider, outcome, job_id, "", run_id)


def note_failed(engine: Engine, provider: str, job_id: str, error: str, *, is_locked: bool, run_id: str) -> None:
    """Record an attempt that failed through the provider's fault, or because it has locked our account."""
    with transaction(engine, "breaker.failed") as session:
        _note(session, provider, Outcome.LOCKED if is_locked else Outcome.FAILED, job_id, error, run_id)


def _note(session: Session, provider: str, outcome: Outcome, job_id: str, error: str, run_id: str) -> None:
    state, as_of = breakers.locked(session, provider)
    before = Breaker.model_validate(state)
    following = after(before, outcome, job_id, error, as_of, in_force(session).policies.breaker)
    if following == before:
        return
    breakers.write(session, provider, following.model_dump(mode="json"))
    found = news(provider, before, outcome, following)
    # guard breaker.told: a provider gets no more jobs, and nobody learns of it
    if found:
        alerts.observe_within(session, found, run_id=run_id)
    if before.until is not None and following.until is None:
        _tell_over(session, provider, run_id)


def _tell_over(session: Session, provider: str, run_id: str = "claim") -> None:
    alerts.observe_within(session, [], rules=(RULE, LOCKED), scope=f"provider:{provider}", run_id=run_id)


def resting(session: Session, as_of: datetime) -> dict[str, Breaker]:
    """Read the breakers that are not closed, without a lock."""
    known = {name: Breaker.model_validate(state) for name, state in breakers.known(session).items()}
    return {name: breaker for name, breaker in known.items() if breaker.phase(as_of) is not Phase.CLOSED}


def for_claims(session: Session, as_of: datetime) -> dict[str, Resting]:
    """Read and lock the breakers that are not closed, with the number of jobs that each may get."""
    found, locked = {}, {name: breakers.locked(session, name)[0] for name in resting(session, as_of)}
    for provider, state in locked.items():
        breaker = Breaker.model_validate(state)
        if breaker.is_forgotten(as_of):
            breakers.write(session, provider, {})
            _tell_over(session, provider)
            continue
        phase, room = breaker.phase(as_of), 0
        if phase is Phase.TRIAL:
            room = breaker.room(breakers.at_work(session, breaker.trials))
        if phase is not Phase.CLOSED:
            found[provider] = Resting(breaker, phase, room)
    if found:
        breakers.put_back(session, found)
    return found


def try_with(session: Session, provider: str, breaker: Breaker, job_ids: list[str]) -> None:
    """Record the trial jobs that the caller gives to a provider."""
    if job_ids:
        breakers.write(session, provider, breaker.trying(job_ids).model_dump(mode="json"))


def takes_no_more(session: Session) -> set[str]:
    """Name the providers for which a new job would wait: those that get none, and those with enough trial jobs."""
    as_of = now(session)
    return {
        name
        for name, breaker in resting(session, as_of).items()
        if breaker.phase(as_of) is Phase.OPEN or _count_unsent(session, name) >= TRIAL_JOBS
    }


def _count_unsent(session: Session, provider: str) -> int:
    """Count the jobs that wait to be sent to a provider, however many, at the cost of those that do not."""
    flying = job_totals.flying(session, [f"provider:{provider}"])
    return sum(total.jobs for total in flying.values()) - breakers.count_begun(session, provider)


def failing(session: Session) -> set[str]:
    """Name the providers that get no new job now."""
    as_of = now(session)
    return {name for name, breaker in resting(session, as_of).items() if breaker.phase(as_of) is Phase.OPEN}


def wait_seconds(session: Session, provider: str, job_id: str) -> float | None:
    """Return the seconds until a job may be sent to a provider; None: it may be sent now."""
    as_of = now(session)
    breaker = resting(session, as_of).get(provider)
    if breaker is None or breaker.until is None or job_id in breaker.trials:
        return None
    return max((breaker.until - as_of).total_seconds(), 1.0)
