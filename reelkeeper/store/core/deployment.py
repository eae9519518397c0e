"""The deployment: which store this is, whether changes are stopped, what its bucket keeps, when each flow succeeded.

Every change locks the deployment row first. So what has been confirmed, as a freeze or a hold, is seen by every change
that commits after it; and the audit record, whose end stands on the same row, keeps that order.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core import policies
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import Clock, changed, insert_into, now
from reelkeeper.store.tables import blobs, controls, deployment, heartbeats

_STATE = sa.select(deployment.c.frozen_at, deployment.c.frozen_by, deployment.c.frozen_reason, *policies.VERSION)
_LOCKED = _STATE.with_for_update()


class Stopped(NamedTuple):
    """Since when, by whom and why all changes are stopped."""

    at: datetime
    by: str
    reason: str


def lock(session: Session) -> None:
    """Lock the deployment row: later changes wait for it until this transaction ends."""
    session.execute(sa.select(deployment.c.id).with_for_update())


def identity(session: Session) -> str:
    """Read the id that the bucket's identity object must hold."""
    deployment_id: str = session.execute(sa.select(deployment.c.id)).scalar_one()
    return deployment_id


def knows_objects(session: Session) -> bool:
    """Whether the catalogue has ever known an object: then its bucket has an identity object."""
    return session.execute(sa.select(blobs.c.id).limit(1)).scalar() is not None


def made_at(session: Session) -> datetime:
    """Give the moment when the store was made."""
    made: datetime = session.execute(sa.select(deployment.c.created_at)).scalar_one()
    return made


def stopped(session: Session, *, locked: bool = False) -> Stopped | None:
    """Say since when, by whom and why changes are stopped; None while they are allowed. `locked`, it stays so.

    Which policies are in force is known to the transaction then.
    """
    row = session.execute(_LOCKED if locked else _STATE).one()
    policies.note(session, row.policy_version, row.policy_digest)
    return Stopped(*row[:3]) if row.frozen_at else None


def stop(session: Session, *, by: str, reason: str) -> bool:
    """Stop all changes; False, and the first reason stays, where they are stopped already."""
    allowed = sa.update(deployment).where(deployment.c.frozen_at.is_(None))
    return changed(session, allowed.values(frozen_at=now(session), frozen_by=by, frozen_reason=reason)) > 0


def let_go_on(session: Session) -> str | None:
    """Allow changes again; gives the reason that had stopped them, or None if nothing had."""
    stopping = sa.select(deployment.c.frozen_reason).where(deployment.c.frozen_at.is_not(None))
    reason: str | None = session.execute(stopping.with_for_update()).scalar()
    if reason is not None:
        session.execute(sa.update(deployment).values(frozen_at=None, frozen_by=None, frozen_reason=None))
    return reason


_CONTRACT: Final = "contract"


class Tried(NamedTuple):
    """What came of the last time that the contract was tried."""

    at: datetime
    endpoint_url: str
    bucket: str
    passed: frozenset[str]  # names of checks
    failed: frozenset[str]


def record_contract(
    session: Session, endpoint_url: str, bucket: str, passed: Collection[str], failed: Collection[str], *, run_id: str
) -> None:
    """Record the outcome of a try of the contract, in place of the last one and in the audit."""
    state = {"endpoint": endpoint_url, "bucket": bucket, "passed": sorted(passed), "failed": sorted(failed)}
    new = {"state": state, "updated_at": Clock()}
    session.execute(
        insert_into(session, controls)
        .values(name=_CONTRACT, **new)
        .on_conflict_do_update(index_elements=["name"], set_=new)
    )
    append(session, [Event("contract", run_id, detail=state)])


def contract_passed(session: Session, endpoint_url: str, bucket: str, checks: Collection[str]) -> bool:
    """Whether all of `checks` passed at this very bucket, at the last try."""
    tried = last_contract(session)
    if tried is None or (tried.endpoint_url, tried.bucket) != (endpoint_url, bucket):
        return False
    return tried.passed >= set(checks)


def last_contract(session: Session) -> Tried | None:
    """Read the outcome of the last try; None if there was none."""
    row = session.execute(
        sa.select(controls.c.state, controls.c.updated_at).where(controls.c.name == _CONTRACT)
    ).one_or_none()
    if row is None:
        return None
    state = row.state
    return Tried(
        row.updated_at, state["endpoint"], state["bucket"], frozenset(state["passed"]), frozenset(state["failed"])
    )


class Beat(NamedTuple):
    """A flow's last success, and what it promised then."""

    flow: str
    last_ok_at: datetime
    period_seconds: int
    grace_seconds: int
    run_id: str
    run_seconds: float | None


def record_beat(
    session: Session, flow: str, run_id: str, period_seconds: int, grace_seconds: int, run_seconds: float | None = None
) -> None:
    """Note that `flow` has just succeeded, and how long it took."""
    insert = insert_into(session, heartbeats).values(
        flow=flow,
        last_ok_at=Clock(),
        period_seconds=period_seconds,
        grace_seconds=grace_seconds,
        run_id=run_id,
        run_seconds=run_seconds,
    )
    new = {name: insert.excluded[name] for name in Beat._fields if name != "flow"}
    session.execute(insert.on_conflict_do_update(index_elements=["flow"], set_=new))


def beats(session: Session) -> dict[str, Beat]:
    """Return each flow's last success, by flow."""
    rows = session.execute(sa.select(*(heartbeats.c[name] for name in Beat._fields)))
    return {row.flow: Beat(*row) for row in rows}
