"""Stop every change, let it go on, and answer what each changing transaction asks first.

The question locks the deployment row until the transaction ends. So a freeze or a hold that has been confirmed is seen
by every change that commits after it, on PostgreSQL too; the audit chain needs the same order anyway.
"""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session

from reelkeeper.errors import Frozen, LeaseLost
from reelkeeper.operations.core.policies import in_force
from reelkeeper.store.core import leases, policies
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import changed, now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import deployment

_STATE = sa.select(deployment.c.frozen_at, deployment.c.frozen_by, deployment.c.frozen_reason, *policies.VERSION)
_LOCKED = _STATE.with_for_update()
_PERMITTED: Final = "permitted"  # in a session's info: the transaction that holds the deployment row


def require_permission(session: Session, lease: Lease | None = None) -> None:
    """Begin a changing transaction: raise Frozen if changes are stopped, LeaseLost if `lease` is lost.

    Raises SchemaError where the policies in force cannot be read: no work is done then.

    A transaction asks once: the row that it has locked says the same until it ends, and which policies are in force.
    """
    if session.info.get(_PERMITTED) is not session.get_transaction() or not session.in_transaction():
        row = session.execute(_LOCKED).one()
        policies.note(session, row.policy_version, row.policy_digest)
        in_force(session)
        if stopped := _why_stopped(row):
            raise Frozen(stopped)
        if not session.in_nested_transaction():  # whose end would let go of the row
            session.info[_PERMITTED] = session.get_transaction()
    if lease and not leases.current(session, lease):
        raise LeaseLost(f"lease {lease.name!r}, token {lease.token}, has passed to another run; nothing was changed")


def freeze(engine: Engine, *, by: str, reason: str) -> None:
    """Stop every effect within one batch. Frozen already: the first reason stays."""
    with transaction(engine, "freeze") as session:
        frozen = changed(
            session,
            sa.update(deployment)
            .where(deployment.c.frozen_at.is_(None))
            .values(frozen_at=now(session), frozen_by=by, frozen_reason=reason),
        )
        if frozen:
            append(session, [Event("freeze", by, detail={"reason": reason})])


def thaw(engine: Engine, *, by: str) -> str | None:
    """Let changes go on; returns the reason that had stopped them, or None if nothing had."""
    with transaction(engine, "thaw") as session:
        reason: str | None = session.execute(
            sa.select(deployment.c.frozen_reason).where(deployment.c.frozen_at.is_not(None)).with_for_update()
        ).scalar()
        if reason is not None:
            session.execute(sa.update(deployment).values(frozen_at=None, frozen_by=None, frozen_reason=None))
            append(session, [Event("thaw", by, detail={"was": reason})])
        return reason


def why_frozen(engine: Engine) -> str | None:
    """Who stopped changes, when and why, with the way out; or None."""
    with reading(engine) as session:
        return _why_stopped(session.execute(_STATE).one())


def why_stopped(session: Session) -> str | None:
    """Say the same in a transaction that begins work and changes nothing yet: it waits for nobody.

    It has read then which policies are in force. Raises SchemaError where they cannot be read.
    """
    row = session.execute(_STATE).one()
    policies.note(session, row.policy_version, row.policy_digest)
    in_force(session)
    return _why_stopped(row)


def _why_stopped(row: sa.Row[tuple[object, ...]]) -> str | None:
    if row.frozen_at is None:
        return None
    return (
        f"frozen since {row.frozen_at:%Y-%m-%d %H:%M} by {row.frozen_by}: {row.frozen_reason}. "
        "Once that is settled: reelkeeper thaw"
    )
