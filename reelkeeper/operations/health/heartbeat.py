"""A flow's sign of life."""

from sqlalchemy.engine import Engine

from reelkeeper.store.core import heartbeats
from reelkeeper.store.core.engine import transaction


def beat(
    engine: Engine,
    flow: str,
    *,
    run_id: str,
    period_seconds: int,
    grace_seconds: int,
    run_seconds: float | None = None,
) -> None:
    """Note that `flow` has succeeded, how long it took, and that it will again within its period and grace."""
    with transaction(engine, "heartbeat") as session:
        heartbeats.record(session, flow, run_id, period_seconds, grace_seconds, run_seconds)
