"""Freeze and thaw all changes, and check permission at the beginning of each changing transaction.

The check locks the deployment row until the transaction ends. So a confirmed freeze or hold is seen by every change
that commits after it, on PostgreSQL too; the audit chain needs the same order anyway.
"""

from typing import Final

from reelkeeper.errors import Frozen, LeaseLost
from reelkeeper.operations.core.policies import in_force
from reelkeeper.rules.core.wording import many
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import deployment, leases
from reelkeeper.store.core.audit import MOVED, Event, append
from reelkeeper.store.core.deployment import Stopped
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import doubts

_PERMITTED: Final = "permitted"  # in a session's info: the transaction that holds the deployment row


def require_permission(
    session: Session, lease: Lease | None = None, *, despite_freeze: bool = False, replaces_policies: bool = False
) -> None:
    """Begin a changing transaction: raise Frozen if changes are stopped, LeaseLost if `lease` is lost.

    Raises SchemaError where the policies in force cannot be read: no work is done then. `despite_freeze` is for a
    takedown, and for taking back a swap in place; `replaces_policies` is for putting others in force.

    A transaction checks once: the locked row, and the policies in force with it, cannot change until it ends.
    """
    if session.info.get(_PERMITTED) is not session.get_transaction() or not session.in_transaction():
        # guard freeze.ordered: a change that commits after a confirmed freeze does not see it
        stopped = deployment.stopped(session, locked=True)
        # guard policy.asked_first: credits and videos are changed under policies that this version cannot read
        if not replaces_policies:
            in_force(session)
        # guard freeze.moved: a takedown, or taking a swap back, is recorded in a store that nobody reads any more
        despite_freeze = despite_freeze and not (stopped and stopped.is_moved)
        # guard freeze.stopped: changes continue during a freeze
        if stopped and not despite_freeze:
            raise Frozen(_explained(session, stopped))
        if not session.in_nested_transaction():  # its end would release the row
            session.info[_PERMITTED] = session.get_transaction()
    # guard freeze.lease: a run changes data after another has taken its lease
    if lease and not leases.current(session, lease):
        raise LeaseLost(f"lease {lease.name!r}, token {lease.token}, has passed to another run; nothing was changed")


def freeze(engine: Engine, *, by: str, reason: str) -> None:
    """Stop every effect within one batch. If changes are frozen already, the first reason stays.

    Raises Frozen for a store that was moved, or is arriving: the one at work goes on.
    """
    with transaction(engine, "freeze") as session:
        if deployment.stop(session, by=by, reason=reason):
            append(session, [Event("freeze", by, detail={"reason": reason})])
            return
        stopped = deployment.stopped(session)
        # guard freeze.elsewhere: a freeze is confirmed by a store that was moved, and the one at work goes on
        if stopped and stopped.is_moved:
            raise Frozen(_explained(session, stopped))


def thaw(engine: Engine, *, by: str) -> str | None:
    """Allow changes again; return the reason why they were frozen, or None if they were not.

    Raises Frozen for a store that was moved, or is arriving.
    """
    with transaction(engine, "thaw") as session:
        stopped = deployment.stopped(session, locked=True)
        # guard freeze.moved_for_good: a store and the one that it was moved to are both at work
        if stopped and stopped.is_moved:
            raise Frozen(_explained(session, stopped))
        reason = deployment.let_go_on(session)
        if reason is not None:
            append(session, [Event("thaw", by, detail={"was": reason})])
        return reason


@safe_to_repeat
def why_frozen(engine: Engine) -> str | None:
    """Explain who froze changes, when and why, and how to thaw them; None while they are allowed."""
    with reading(engine) as session:
        stopped = deployment.stopped(session)
        return _explained(session, stopped) if stopped else None


def why_stopped(session: Session) -> str | None:
    """Return what `why_frozen` does, without a lock, in a transaction that begins work and has changed nothing yet.

    It also reads which policies are in force. Raises SchemaError where they cannot be read.
    """
    stopped = deployment.stopped(session)
    in_force(session)
    return _explained(session, stopped) if stopped else None


def _explained(session: Session, stopped: Stopped) -> str:
    """Say why changes are stopped, and which commands end that."""
    if stopped.is_moved:
        way_out = "set REELKEEPER_DATABASE_URL to that store" if stopped.by == MOVED else "run the move again"
        return f"{stopped.reason} on {stopped.at:%Y-%m-%d %H:%M}, by {stopped.by}: {way_out}; a thaw does not end this"
    open_doubts = len(doubts.listed(session))
    first = f"{many(open_doubts, 'object')} in doubt, each with the command that settles it: reelkeeper doubts. "
    return (
        f"frozen since {stopped.at:%Y-%m-%d %H:%M} by {stopped.by}: {stopped.reason}. "
        f"{first if open_doubts else ''}When the cause is resolved: reelkeeper thaw"
    )
