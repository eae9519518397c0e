"""Hold leases for the length of a piece of work, and know at any moment whether they still hold.

with Keeper(engine) as keeper:
    for grant in keeper.take(names):
        keeper.check(grant)            # before each effect; each transaction asks the store again
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from types import TracebackType
from typing import NamedTuple, Self
from uuid import uuid4

from reelkeeper.errors import LeaseLost
from reelkeeper.store import Engine, SQLAlchemyError
from reelkeeper.store.core import leases
from reelkeeper.store.core.leases import Grant

HEARTBEAT_SECONDS = 15.0
GIVE_UP_SECONDS = 40.0  # without a renewal; well before the lease ends at 60, so that slow work stops in time
_log = logging.getLogger(__name__)


class Keeper:
    """Takes leases, renews them from a thread of its own, and releases them on leaving."""

    def __init__(
        self,
        engine: Engine,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._engine = engine
        self._heartbeat_seconds = heartbeat_seconds
        self._give_up_seconds = give_up_seconds
        self._renewed: dict[Grant, float] = {}  # grant -> monotonic time just before its last renewal was asked for
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        within = copy_context().run  # what the heart logs belongs to the same run
        self._heart = threading.Thread(target=within, args=(self._beat,), name="lease-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Start the heartbeat."""
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the heartbeat and give back what is still held."""
        self._leaving.set()
        self._heart.join()
        self.release(list(self._renewed))

    def take(self, names: Sequence[str]) -> list[Grant]:
        """Take those of `names` that nobody holds; the others are left out."""
        asked = time.monotonic()
        grants = leases.acquire(self._engine, names, self.holder)
        with self._lock:
            self._renewed |= dict.fromkeys(grants, asked)
        return grants

    def check(self, grant: Grant) -> None:
        """Raise LeaseLost when another run took over, or when that could have happened unnoticed."""
        with self._lock:
            renewed = self._renewed.get(grant)
        if renewed is None:
            raise LeaseLost(f"lease {grant.name!r} (token {grant.token}) is no longer ours: another run took it over")
        age = time.monotonic() - renewed
        if age > self._give_up_seconds:
            raise LeaseLost(
                f"lease {grant.name!r} (token {grant.token}) was last renewed {age:.0f} s ago, limit "
                f"{self._give_up_seconds:.0f} s: another run may have taken it over. Run again; finished items stay so"
            )

    def release(self, grants: Sequence[Grant]) -> None:
        """Give `grants` back before leaving."""
        with self._lock:
            for grant in grants:
                self._renewed.pop(grant, None)
        leases.release(self._engine, grants)

    def _beat(self) -> None:
        while not self._leaving.wait(self._heartbeat_seconds):
            with self._lock:
                held = list(self._renewed)
            if not held:
                continue
            asked = time.monotonic()
            try:
                ours = set(leases.renew(self._engine, held))
            except SQLAlchemyError:
                _log.warning("%d leases not renewed; trying again", len(held), exc_info=True)
                continue
            with self._lock:
                for grant in held:
                    if grant not in ours:
                        self._renewed.pop(grant, None)
                    elif grant in self._renewed:
                        self._renewed[grant] = asked


class Lease(NamedTuple):
    """The lease that a run works under, and the keeper that renews it and takes more."""

    keeper: Keeper
    grant: Grant

    def check(self) -> None:
        """Raise LeaseLost unless it still holds."""
        self.keeper.check(self.grant)


@contextmanager
def alone(engine: Engine, name: str) -> Iterator[Lease]:
    """Hold the lease `name`. Raises LeaseLost, naming the holder, when another has it."""
    with Keeper(engine) as keeper:
        grants = keeper.take([name])
        if not grants:
            holder = leases.holder(engine, name)
            raise LeaseLost(
                f"lease {name!r} is held by {holder or 'a run that has just ended'}; nothing was changed. If that run "
                f"is dead, its lease ends {leases.LEASE_SECONDS:.0f} s after its last sign of life: run again then"
            )
        yield Lease(keeper, grants[0])
