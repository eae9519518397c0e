"""Store the state of each provider's breaker, and move or requeue its jobs.

Each provider has a row of `controls`. A transaction that needs it and the deployment row locks this row first.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model.jobs import JobState
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import Clock, changed, checked
from reelkeeper.store.jobs import claims
from reelkeeper.store.jobs.queue import ADMITTED, AdmittedJob
from reelkeeper.store.tables import jobs

_PREFIX: Final = "breaker:"
# guard fallback.never_both: a job that one provider may have is sent to another, and paid twice
UNSENT: Final = sa.and_(jobs.c.leader_id.is_(None), jobs.c.state == JobState.QUEUED, jobs.c.provider_key.is_(None))


def known(session: Session) -> dict[str, dict[str, Any]]:
    """Read the breaker of each provider, without a lock."""
    return controls.of_each(session, _PREFIX)


def locked(session: Session, provider: str) -> tuple[dict[str, Any], datetime]:
    """Read and lock the breaker of one provider until the transaction ends; return it and the time."""
    return controls.locked(session, f"{_PREFIX}{provider}")


def write(session: Session, provider: str, state: dict[str, Any]) -> None:
    """Write the breaker of a provider."""
    controls.write(session, f"{_PREFIX}{provider}", state)


def at_work(session: Session, job_ids: Collection[str]) -> list[str]:
    """List those of these jobs that a worker or a provider may be working on."""
    sent = sa.and_(jobs.c.state == JobState.QUEUED, jobs.c.provider_key.is_not(None))
    chosen = sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), sa.or_(jobs.c.state.in_(claims.AT_WORK), sent))
    return list(session.execute(chosen).scalars())


def count_begun(session: Session, provider: str) -> int:
    """Count the jobs in flight of a provider that do not wait to be sent to it."""
    of_it = checked(sa.and_(jobs.c.leader_id.is_(None), jobs.c.lane == provider))
    begun = (jobs.c.state.in_(claims.AT_WORK), claims.IS_SENT)  # each apart, as an index has it
    counts = (sa.select(sa.func.count()).where(of_it, one).scalar_subquery() for one in begun)
    return int(session.execute(sa.select(sum(counts, sa.literal(0)))).scalar_one())


def unsent(session: Session, providers: Collection[str], models: Collection[str], limit: int) -> list[AdmittedJob]:
    """Select and lock jobs of these models that wait to be sent to these providers.

    They are drawn at random, so that jobs that cannot be moved do not block the others. By `key_share`, one that
    another request is just joining is among them.
    """
    wanted = sa.select(*ADMITTED).where(UNSENT, jobs.c.lane.in_(providers), jobs.c.model.in_(models))
    drawn = wanted.order_by(sa.func.random()).limit(limit)
    rows = session.execute(drawn.with_for_update(skip_locked=True, key_share=True))
    return [AdmittedJob._make(row) for row in rows]


def move(session: Session, job: AdmittedJob, lane: str, cost_microusd: int) -> bool:
    """Move a job to another provider, due now and at its cost; False where a provider or worker may have it by now."""
    waits = sa.and_(jobs.c.id == job.id, UNSENT, jobs.c.lane == job.lane)
    # guard fallback.line: a job that moved to another provider waits as long as its former one gets none
    new = {"lane": lane, "line": None, "quoted_cost_microusd": cost_microusd, "due_at": Clock()}
    return changed(session, sa.update(jobs).where(waits).values(new)) == 1


def put_back(session: Session, providers: Collection[str]) -> None:
    """Requeue the jobs of these providers whose worker died before it sent them."""
    dead = sa.and_(jobs.c.state == JobState.RUNNING, jobs.c.lease_until <= Clock())
    chosen = sa.and_(dead, jobs.c.provider_key.is_(None), jobs.c.lane.in_(providers))
    session.execute(sa.update(jobs).where(chosen).values(state=JobState.QUEUED, claimed_by=None, lease_until=None))
