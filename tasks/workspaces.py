"""The workspace that a run works on, and the right to change it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from reelkeeper.errors import Frozen
from reelkeeper.operations import Engine, open_store
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.lease import HeldLease, alone
from reelkeeper.operations.core.workspace import Workspace, open_workspace
from reelkeeper.settings import settings


def opened() -> AbstractContextManager[Workspace]:
    """Open store and bucket as this process is configured, and check that they belong together."""
    return open_workspace(settings())


def store() -> AbstractContextManager[Engine]:
    """Open the store alone, for a flow that has nothing to do with videos."""
    return open_store(settings())


@contextmanager
def lease(workspace: Workspace, flow: str) -> Iterator[HeldLease]:
    """Be the only run of `flow` that changes anything. Raises LeaseLost naming the other, Frozen with the reason."""
    if reason := why_frozen(workspace.engine):
        raise Frozen(reason)
    with alone(workspace.engine, f"flow/{flow}") as held:
        yield held
