"""The workspace that a run works on, and the right to change it."""

from collections.abc import Iterator
from contextlib import contextmanager

from reelkeeper.errors import Frozen, ReelkeeperError
from reelkeeper.operations import Engine, open_store
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.lease import HeldLease, alone
from reelkeeper.operations.core.workspace import Workspace, open_workspace
from reelkeeper.redaction import unnamed
from reelkeeper.settings import settings


@contextmanager
def opened() -> Iterator[Workspace]:
    """Open store and bucket as this process is configured, and check that they belong together."""
    with _naming_nobody(), open_workspace(settings()) as workspace:
        yield workspace


@contextmanager
def store() -> Iterator[Engine]:
    """Open the store alone, for a flow that has nothing to do with videos."""
    with _naming_nobody(), open_store(settings()) as engine:
        yield engine


@contextmanager
def _naming_nobody() -> Iterator[None]:
    """Leave the ids of users out of an error: Prefect writes it into its database as the state of the run."""
    try:
        yield
    except ReelkeeperError as error:
        # guard secrets.states: the id of a user stands in Prefect's database, which no erasure reaches
        error.args = tuple(unnamed(part) if isinstance(part, str) else part for part in error.args)
        raise


@contextmanager
def lease(workspace: Workspace, flow: str) -> Iterator[HeldLease]:
    """Be the only run of `flow` that changes anything. Raises LeaseLost naming the other, Frozen with the reason."""
    if reason := why_frozen(workspace.engine):
        raise Frozen(reason)
    with alone(workspace.engine, f"flow/{flow}") as held:
        yield held
