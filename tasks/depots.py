"""The depot that a run works on, and the right to change it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from reelkeeper.errors import Frozen
from reelkeeper.operations.depot import Depot, open_depot
from reelkeeper.operations.freeze import why_frozen
from reelkeeper.operations.lease import Lease, alone
from reelkeeper.settings import settings


def opened() -> AbstractContextManager[Depot]:
    """Open store and bucket as this process is configured, and check that they belong together."""
    return open_depot(settings())


@contextmanager
def lease(depot: Depot, flow: str) -> Iterator[Lease]:
    """Be the only run of `flow` that changes anything. Raises LeaseLost naming the other, Frozen with the reason."""
    if reason := why_frozen(depot.engine):
        raise Frozen(reason)
    with alone(depot.engine, f"flow/{flow}") as held:
        yield held
