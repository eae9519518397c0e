"""Jobs that were sent to a provider, for its account of them to be compared with ours."""

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.store.tables import jobs


class SentRow(NamedTuple):
    """A job that was sent, with what its price was quoted from."""

    id: str
    lease_token: int
    provider_key: str | None
    provider_job_id: str | None
    started_at: datetime
    finished_at: datetime | None
    state: str
    cost_microusd: int | None
    quoted_cost_microusd: int | None
    model: str
    tier: str | None
    policy_version: int
    request: dict[str, Any]


def sent_between(session: Session, provider: str, first: datetime, end: datetime) -> list[SentRow]:
    """Give the jobs that were begun between, and sent to this provider last."""
    columns = [jobs.c[name] for name in SentRow._fields]
    of_it = sa.and_(jobs.c.provider == provider, jobs.c.started_at >= first, jobs.c.started_at < end)
    rows = session.execute(sa.select(*columns).where(of_it).order_by(jobs.c.started_at, jobs.c.id))
    return [SentRow(*row) for row in rows]
