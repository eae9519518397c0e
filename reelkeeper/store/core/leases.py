"""Grant leases: the right to work on something for a limited time, with a token that fences off earlier holders.

Rows stay, but for those of videos that nothing has worked on for days (`prune_records`): no holder has a token twice.
Times are the database's; a holder's own clock decides nothing here.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.store.core.engine import Clock, insert_into, reading, transaction
from reelkeeper.store.tables import leases

LEASE_SECONDS = 60.0
LONGEST_SECONDS = 7 * 3600.0  # more than any lease is granted for: a sink may ask for a pause of six hours
T = TypeVar("T")
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = (leases.c.name, leases.c.holder, leases.c.token)
_LEASE = sa.tuple_(*_COLUMNS)
_BATCH = 1_000  # three parameters each; SQLite takes 32,766 in one statement


class Lease(NamedTuple):
    """A lease as granted to one holder."""

    name: str
    holder: str
    token: int


def acquire(engine: sa.Engine, names: Sequence[str], holder: str, seconds: float = LEASE_SECONDS) -> list[Lease]:
    """Grant `holder` those of `names` that are free or expired, in their order; the others are left out.

    It never waits: a lease that is being renewed or taken at this moment is left to that holder.
    """
    granted: dict[str, Lease] = {}
    for batch in _batches(sorted(set(names))):  # one order for all, to avoid deadlocks
        # guard leases.free_only: two runs hold one lease
        is_over = leases.c.expires_at <= Clock()
        # guard leases.of_future: since a clock was ahead, no alert is sent and no flow runs until it has caught up
        is_over |= leases.c.expires_at > Clock(LONGEST_SECONDS)
        free = sa.select(leases.c.name).where(leases.c.name.in_(batch), is_over)
        with transaction(engine, "leases.acquire") as session:
            session.execute(
                insert_into(session, leases).values(holder="", token=0, expires_at=_LONG_AGO).on_conflict_do_nothing(),
                [{"name": name} for name in batch],
            )
            rows = session.execute(
                sa.update(leases)
                .where(leases.c.name.in_(free.with_for_update(skip_locked=True)))
                # guard leases.new_token: an earlier holder cannot be told from the present one
                .values(holder=holder, token=leases.c.token + 1, expires_at=Clock(seconds))
                .returning(*_COLUMNS)
            )
            granted |= {row.name: Lease(*row) for row in rows}
    return [granted[name] for name in dict.fromkeys(names) if name in granted]


def renew(engine: sa.Engine, taken: Sequence[Lease], seconds: float = LEASE_SECONDS) -> list[Lease]:
    """Extend and return those of `taken` that are still ours: their name was not granted to another since."""
    renewed: set[Lease] = set()
    for batch in _batches(taken):
        with transaction(engine, "leases.renew") as session:
            # guard leases.renew_own: a run renews a lease that another has taken over
            extend = sa.update(leases).where(_LEASE.in_(batch)).values(expires_at=Clock(seconds)).returning(*_COLUMNS)
            renewed |= {Lease(*row) for row in session.execute(extend)}
    return [lease for lease in taken if lease in renewed]


def release(engine: sa.Engine, taken: Sequence[Lease]) -> None:
    """Release `taken`; those already lost are left alone. A released lease is no longer `current`."""
    for batch in _batches(taken):
        with transaction(engine, "leases.release") as session:
            # guard leases.release_own: a run that lost its lease releases its successor's
            session.execute(sa.update(leases).where(_LEASE.in_(batch)).values(expires_at=Clock(), holder=""))


def holder(engine: sa.Engine, name: str) -> str | None:
    """Read the present holder of `name`, as host:process:run; None if it is free."""
    with reading(engine) as session:
        held = sa.select(leases.c.holder).where(leases.c.name == name, leases.c.expires_at > Clock())
        return session.execute(held).scalar()


def standing(session: Session, lease: Lease) -> bool:
    """Check whether `lease` is still its holder's and has not expired: for workers under another run's lease."""
    # guard leases.still_running: a helper works for a run whose lease has expired
    held = sa.select(leases.c.token).where(sa.tuple_(*lease) == _LEASE, leases.c.expires_at > Clock())
    return session.execute(held).scalar() is not None


def current(session: Session, lease: Lease) -> bool:
    """Check whether `lease` is still the last one of its name; if so, lock it until the transaction ends."""
    # guard leases.current: a run changes data after another has taken over
    granted = sa.select(leases.c.token).where(sa.tuple_(*lease) == _LEASE)
    return session.execute(granted.with_for_update()).scalar() is not None


def _batches(wanted: Sequence[T]) -> Iterator[list[T]]:
    for start in range(0, len(wanted), _BATCH):
        yield list(wanted[start : start + _BATCH])
