"""Blobs: bytes that have waited out their grace, deleted a thousand keys at a time."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from reelkeeper.errors import StorageError
from reelkeeper.model import Grace, Outcome
from reelkeeper.operations import purge
from reelkeeper.operations.depot import Depot
from reelkeeper.operations.lease import Lease
from reelkeeper.store.engine import reading, transaction
from reelkeeper.store.plans import Item, planned, record_outcomes
from tasks import RETRIES

KEYS_PER_DELETE = 1_000  # S3 API: the most that one DeleteObjects takes
PARALLEL_BATCHES = 4  # while the bucket deletes one batch, the store claims and settles others


def purge_planned(depot: Depot, lease: Lease, plan_id: str, *, run_id: str, grace: Grace) -> None:
    """Delete what a plan says, some batches at a time; a batch that fails is noted, and the others follow.

    Raises LeaseLost and Frozen, and begins nothing more then.
    """
    with reading(depot.engine) as session:
        batches = list(planned(session, plan_id, "purge", KEYS_PER_DELETE))
    whose = {"depot": depot, "lease": lease, "plan_id": plan_id, "run_id": run_id, "grace": grace}
    runner: ThreadPoolTaskRunner[None] = ThreadPoolTaskRunner(max_workers=PARALLEL_BATCHES)
    with runner:
        futures = [runner.submit(purge_batch, {**whose, "items": batch}) for batch in batches]
        for future, batch in zip(futures, batches, strict=True):
            try:
                future.result()
            except StorageError as error:
                _note_failed(depot, plan_id, batch, error)


@task(task_run_name="settle what killed purges had claimed", cache_policy=NO_CACHE, **RETRIES)
def settle_claims(depot: Depot, lease: Lease, *, run_id: str, grace: Grace) -> int:
    """Look at the blobs whose claims have timed out, and settle each; return how many."""
    lease.check()
    return purge.settle_claims(depot, run_id=run_id, grace=grace, grant=lease.grant)


def _note_failed(depot: Depot, plan_id: str, items: list[Item], error: StorageError) -> None:
    outcomes = [
        Outcome(item.video_id or "", "failed", str(error), item.size_bytes, item.size_bytes, item.blob_id)
        for item in items
    ]
    with transaction(depot.engine, "purge.failed") as session:
        record_outcomes(session, plan_id, outcomes)


@task(
    task_run_name="purge {items[0].video_id} and what follows",
    cache_policy=NO_CACHE,
    **RETRIES,
)
def purge_batch(depot: Depot, lease: Lease, plan_id: str, items: list[Item], *, run_id: str, grace: Grace) -> None:
    """Delete one batch. Safe to repeat: what an earlier try had begun is finished."""
    lease.check()
    blob_ids = [item.blob_id for item in items]
    purge.purge(depot, plan_id, blob_ids, grant=lease.grant, run_id=run_id, grace=grace)
