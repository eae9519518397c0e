"""Which bucket has shown that it keeps the contract: one row, the last bucket that was tried."""

from collections.abc import Collection
from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import Clock, insert_into
from reelkeeper.store.tables import controls

_NAME: Final = "contract"


class Tried(NamedTuple):
    """What came of the last time that the contract was tried."""

    at: datetime
    endpoint_url: str
    bucket: str
    passed: frozenset[str]  # names of checks
    failed: frozenset[str]


def record(
    session: Session, endpoint_url: str, bucket: str, passed: Collection[str], failed: Collection[str], *, run_id: str
) -> None:
    """Write down what came of a try, in place of the last one, and in the audit record."""
    state = {"endpoint": endpoint_url, "bucket": bucket, "passed": sorted(passed), "failed": sorted(failed)}
    new = {"state": state, "updated_at": Clock()}
    session.execute(
        insert_into(session, controls)
        .values(name=_NAME, **new)
        .on_conflict_do_update(index_elements=["name"], set_=new)
    )
    append(session, [Event("contract", run_id, detail=state)])


def has_passed(session: Session, endpoint_url: str, bucket: str, checks: Collection[str]) -> bool:
    """Whether all of `checks` passed at this very bucket, at the last try."""
    tried = last(session)
    if tried is None or (tried.endpoint_url, tried.bucket) != (endpoint_url, bucket):
        return False
    return tried.passed >= set(checks)


def last(session: Session) -> Tried | None:
    """Read what came of the last try; None if there was none."""
    row = session.execute(
        sa.select(controls.c.state, controls.c.updated_at).where(controls.c.name == _NAME)
    ).one_or_none()
    if row is None:
        return None
    state = row.state
    return Tried(
        row.updated_at, state["endpoint"], state["bucket"], frozenset(state["passed"]), frozenset(state["failed"])
    )
