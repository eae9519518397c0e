"""Release overdue holds and reservations, recount all accounts, and freeze all changes on a mismatch.

A mismatch means that something else wrote to the store, or that Reelkeeper has a bug. The same transactions
keep the credits, the bytes and the catalogue that a purge trusts, so all of them are frozen, not spending alone.
Waiting loses nothing.
"""

from collections.abc import Sequence

from reelkeeper.model.money import Mismatch, Moved
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.billing import ledger, quota
from reelkeeper.operations.core.freeze import freeze, require_permission
from reelkeeper.rules.billing import accounts as rule
from reelkeeper.store import Engine
from reelkeeper.store.billing import credit_holds, quotas
from reelkeeper.store.billing import recount as counting
from reelkeeper.store.billing.quotas import Reserved
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.jobs import queue
from reelkeeper.store.videos import uploads


def void_holds(engine: Engine, *, lease: Lease, run_id: str) -> list[Moved]:
    """Release every overdue hold on credits, in batches; one alert a day names jobs that go on without.

    Raises Frozen or LeaseLost.
    """
    voided: list[Moved] = []
    while True:
        with transaction(engine, "accounts.void_holds") as session:
            require_permission(session, lease)
            some = ledger.expire(session, run_id=run_id)
            unfinished = queue.unfinished(session, [moved.hold_id for moved in some if moved.hold_id])
            # guard accounts.hold_ended: credits of jobs that go on are given back, and nobody is told
            if unfinished:
                alerts.observe_within(session, [rule.holds_ended(unfinished, now(session))], run_id=run_id)
        voided += some
        if not some:
            return voided


def void_reservations(engine: Engine, *, lease: Lease) -> list[Reserved]:
    """End every expired reservation that is not bound to an upload. Raises Frozen or LeaseLost."""
    voided: list[Reserved] = []
    while True:
        with transaction(engine, "accounts.void_reservations") as session:
            require_permission(session, lease)
            some = quota.expire(session)
            uploads.release(session, [reservation.id for reservation in some])
        voided += some
        if not some:
            return voided


def overdue(engine: Engine) -> tuple[tuple[int, int], tuple[int, int]]:
    """Count the overdue holds with their micro-dollars, and the overdue reservations with their bytes."""
    with reading(engine) as session:
        return credit_holds.overdue(session), quotas.overdue(session)


def recount(engine: Engine) -> list[Mismatch]:
    """Recount everything from one snapshot; return the mismatches."""
    with reading(engine) as session:
        return counting.mismatches(session)


def stop(engine: Engine, mismatches: Sequence[Mismatch], *, run_id: str) -> None:
    """Freeze all changes because of `mismatches`."""
    freeze(engine, by=run_id, reason=rule.summary(mismatches))


def correct(engine: Engine, *, author: str) -> tuple[list[Mismatch], list[Mismatch]]:
    """Correct totals that are derived from records; return the mismatches corrected, and those left.

    Balances come from the entries, used and reserved bytes from videos and reservations. It works while changes are
    frozen, and does not thaw. Records that contradict each other are left for an operator.
    """
    with transaction(engine, "accounts.correct") as session:
        deployment.lock(session)
        wrong = [mismatch for mismatch in counting.mismatches(session) if counting.write_anew(session, mismatch)]
        append(session, [Event("recount", author, detail=mismatch._asdict()) for mismatch in wrong])
        return wrong, counting.mismatches(session)
