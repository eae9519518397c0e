"""List jobs by user, state and time, the newest first. A page costs the same, however many jobs there are.

A job that joined another has the state of that one, its leader, until it ends.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.ids import Span
from reelkeeper.model.jobs import IN_FLIGHT, JobState, ListedJob
from reelkeeper.store.core.engine import checked, newest
from reelkeeper.store.tables import credit_holds, jobs

_LEADER = jobs.alias("leader")
_FOLLOWS = sa.and_(_LEADER.c.id == jobs.c.leader_id, jobs.c.state.in_(IN_FLIGHT))
_SHOWN = sa.func.coalesce(_LEADER.c.state, jobs.c.state)
_NAMED = {
    "job_id": jobs.c.id,
    "metadata": jobs.c.caller_metadata,
    "state": _SHOWN,
    "progress": sa.func.coalesce(_LEADER.c.progress, jobs.c.progress),
    "charged_microusd": sa.func.coalesce(credit_holds.c.captured_microusd, 0),
    "started_at": sa.case((_LEADER.c.id.is_not(None), _LEADER.c.started_at), else_=jobs.c.started_at),
}
_LISTED = sa.select(
    jobs.c.id, *(_NAMED[name].label(name) if name in _NAMED else jobs.c[name] for name in ListedJob.model_fields)
).select_from(jobs.outerjoin(_LEADER, _FOLLOWS).outerjoin(credit_holds, credit_holds.c.id == jobs.c.hold_id))


def page(session: Session, *, user_id: str | None, state: JobState | None, span: Span, limit: int) -> list[ListedJob]:
    """List the newest `limit` jobs in a span of time, of a user or of all, in a state or in any."""
    # guard jobs.listed_own: a user is shown the jobs of others, although the service asked for theirs alone
    whose = [] if user_id is None else [jobs.c.user_id == user_id]
    chosen = _LISTED.where(*whose)
    parts = [chosen.where(jobs.c.state == each) for each in JobState] if state is None else _in(state, chosen)
    rows = newest(session, parts, jobs.c.created_at, span, limit)
    return [ListedJob.model_validate(row, from_attributes=True) for row in rows]


def _in(state: JobState, chosen: sa.Select[Any]) -> list[sa.Select[Any]]:
    own = chosen.where(jobs.c.state == state)
    if state == JobState.QUEUED:
        return [own.where(sa.func.coalesce(_LEADER.c.state, state) == state)]
    if state not in IN_FLIGHT:
        return [own]
    leads = jobs.alias("leads")
    leaders = sa.select(leads.c.id).where(leads.c.state == state)
    return [own, chosen.where(jobs.c.leader_id.in_(leaders), checked(jobs.c.state == JobState.QUEUED))]
