"""Blobs: delete bytes whose grace is over, a thousand keys at a time."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from reelkeeper.errors import ReelkeeperError
from reelkeeper.model import Grace
from reelkeeper.operations import Item
from reelkeeper.operations.core.isolation import each_apart
from reelkeeper.operations.core.lease import HeldLease
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import outcomes, purge
from tasks import RETRIES, step

begin = purge.begin  # before a plan is claimed


def purge_planned(workspace: Workspace, held: HeldLease, plan_id: str, *, run_id: str, grace: Grace) -> None:
    """Delete a plan's blobs, several batches at a time; a failed batch or blob is recorded, and the others go on.

    Raises LeaseLost, StoreBehind, Frozen, DiskFull and Unavailable; then no further batch begins.
    """
    batches = list(outcomes.planned(workspace.engine, plan_id, "purge", purge.KEYS_AT_ONCE))
    whose: dict[str, Any] = {"workspace": workspace, "held": held, "plan_id": plan_id, "run_id": run_id, "grace": grace}
    runner: ThreadPoolTaskRunner[None] = ThreadPoolTaskRunner(max_workers=purge.BATCHES_AT_ONCE)
    with runner:
        futures = [runner.submit(purge_batch, {**whose, "items": batch}) for batch in batches]
        for future, batch in zip(futures, batches, strict=True):
            tried = iter([future.result])  # first the whole batch that was submitted, then halves of it

            def act(items: Sequence[Item], tried: Iterator[Callable[[], None]] = tried) -> None:
                next(tried, partial(purge_batch, **whose, items=list(items)))()

            each_apart(batch, act, partial(_note_failed, workspace, plan_id))


@step("settle claims of killed purges", **RETRIES)
def settle_claims(workspace: Workspace, held: HeldLease, *, run_id: str, grace: Grace) -> int:
    """Settle the blobs whose claims have timed out; return how many."""
    held.check()
    return purge.settle_claims(workspace, run_id=run_id, grace=grace, lease=held.lease)


def _note_failed(workspace: Workspace, plan_id: str, items: Sequence[Item], error: Exception) -> None:
    get_run_logger().warning("%s blobs could not be purged, the others were: %s", f"{len(items):,}", error)
    why = str(error) if isinstance(error, ReelkeeperError) else f"{type(error).__name__}: {error}"
    failed = [outcomes.stays(item, "failed", why) for item in items]
    outcomes.record(workspace.engine, "purge.failed", plan_id, failed)


@step("purge the batch from {items[0].video_id}", **RETRIES)
def purge_batch(
    workspace: Workspace, held: HeldLease, plan_id: str, items: list[Item], *, run_id: str, grace: Grace
) -> None:
    """Delete one batch. Safe to repeat: it finishes what an earlier attempt began."""
    held.check()
    blob_ids = [item.blob_id for item in items]
    purge.purge(workspace, plan_id, blob_ids, lease=held.lease, run_id=run_id, grace=grace)
