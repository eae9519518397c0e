"""Hold leases for the duration of a piece of work, and check at any moment whether they are still valid.

with LeaseManager(engine) as manager:
    for lease in manager.take(names):
        manager.check(lease)           # before each effect; each transaction checks the store again
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from types import TracebackType
from typing import NamedTuple, Self
from uuid import uuid4

from reelkeeper.errors import LeaseLost, LeaseUnrenewed
from reelkeeper.store import Engine, SQLAlchemyError
from reelkeeper.store.core import leases
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.core.leases import Lease

HEARTBEAT_SECONDS = 15.0
GIVE_UP_SECONDS = 40.0  # without a renewal; well before the lease ends at 60, so that slow work stops in time
PATIENCE_SECONDS = 30.0  # for which a run waits for a store that does not answer, before its leases are given up
_TURN_SECONDS = 1.0  # between two looks whether a lease is free
_SOON_SECONDS = 2.0  # between two renewals while the store does not answer
_log = logging.getLogger(__name__)


def new_holder() -> str:
    """Make a unique name for a holder of leases or claims: machine, process, and eight random characters."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


class LeaseManager:
    """Takes leases, renews them from a thread of its own, and releases them on leaving."""

    def __init__(
        self, engine: Engine, *, heartbeat_seconds: float = HEARTBEAT_SECONDS, give_up_seconds: float = GIVE_UP_SECONDS
    ) -> None:
        self.holder = new_holder()
        self._engine = engine
        self._heartbeat_seconds = heartbeat_seconds
        self._give_up_seconds = give_up_seconds
        self._renewed: dict[Lease, float] = {}  # lease -> monotonic time just before its last renewal was asked for
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        within = copy_context().run  # log lines of the heartbeat belong to the same run
        self._heart = threading.Thread(target=within, args=(self._beat,), name="lease-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Start the heartbeat."""
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the heartbeat and release the leases still held."""
        self._leaving.set()
        self._heart.join()
        self.release(list(self._renewed))

    def take(self, names: Sequence[str]) -> list[Lease]:
        """Take those of `names` that are free; leave out the others."""
        began = time.monotonic()
        taken = leases.acquire(self._engine, names, self.holder)
        with self._lock:
            self._renewed |= dict.fromkeys(taken, began)
        return taken

    @contextmanager
    def in_turn(self, name: str, look: Callable[[], object]) -> Iterator[Lease]:
        """Hold the lease `name`; while another has it, `look` each second. A dead run's ends within a minute."""
        # guard leases.in_turn: two workers store one job's video at the same time
        while not (taken := self.take([name])):
            look()
            time.sleep(_TURN_SECONDS)
        try:
            yield taken[0]
        finally:
            self.release(taken)

    def check(self, lease: Lease) -> None:
        """Raise LeaseLost when another run took over, or when that could have happened unnoticed."""
        with self._lock:
            renewed = self._renewed.get(lease)
        # guard leases.taken_over: a run continues although it learned that another has its lease
        if renewed is None:
            raise LeaseLost(
                f"lease {lease.name!r} (token {lease.token}) was taken over by another run. Run again; finished "
                "items stay done"
            )
        age = time.monotonic() - renewed
        # guard leases.silent: a run continues that could not renew its lease for 40 s
        if age > self._give_up_seconds:
            raise LeaseUnrenewed(
                f"lease {lease.name!r} (token {lease.token}) was last renewed {age:.0f} s ago, limit "
                f"{self._give_up_seconds:.0f} s: another run may have taken it over. Run again; "
                "finished items stay done"
            )

    def release(self, taken: Sequence[Lease]) -> None:
        """Release `taken` before leaving."""
        with self._lock:
            for lease in taken:
                self._renewed.pop(lease, None)
        # guard outages.release: a run that is done fails, and is repeated, as PostgreSQL restarts at its very end
        safe_to_repeat(leases.release)(self._engine, taken)

    def _beat(self) -> None:
        pause = self._heartbeat_seconds
        while not self._leaving.wait(pause):
            pause = self._heartbeat_seconds
            with self._lock:
                held = list(self._renewed)
            if not held:
                continue
            began = time.monotonic()
            try:
                renewed = set(leases.renew(self._engine, held))
            except SQLAlchemyError:
                _log.warning("%d leases could not be renewed; trying again", len(held), exc_info=True)
                pause = min(pause, _SOON_SECONDS)
                continue
            # A renewal that waited for the store counts from when it was asked for: the next follows at once.
            pause = max(pause - (time.monotonic() - began), 0.0)
            with self._lock:
                for lease in held:
                    if lease not in renewed:
                        self._renewed.pop(lease, None)
                    elif lease in self._renewed:
                        self._renewed[lease] = began


class HeldLease(NamedTuple):
    """The lease of a run, and the manager that renews it and takes more."""

    manager: LeaseManager
    lease: Lease

    def check(self) -> None:
        """Raise LeaseLost unless the lease is still valid."""
        self.manager.check(self.lease)


@contextmanager
def alone(engine: Engine, name: str) -> Iterator[HeldLease]:
    """Hold the lease `name`. Raises LeaseLost, with the holder's name, when another has it."""
    with LeaseManager(engine) as manager:
        taken = manager.take([name])
        if not taken:
            holder = leases.holder(engine, name)
            raise LeaseLost(
                f"lease {name!r} is held by {holder or 'a run that has just ended'}; nothing was changed. If that run "
                f"is dead, its lease ends {leases.LEASE_SECONDS:.0f} s after its last renewal: run again then"
            )
        yield HeldLease(manager, taken[0])
