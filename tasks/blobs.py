"""Blobs: bytes that have waited out their grace, deleted a thousand keys at a time."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from reelkeeper.errors import StorageError
from reelkeeper.model import Outcome
from reelkeeper.operations import purge
from reelkeeper.operations.depot import Depot
from reelkeeper.operations.lease import Lease
from reelkeeper.store.engine import reading, transaction
from reelkeeper.store.plans import planned, record_outcomes

KEYS_PER_DELETE = 1_000  # S3 API: the most that one DeleteObjects takes


def purge_planned(depot: Depot, lease: Lease, plan_id: str, *, run_id: str, grace_days: int) -> None:
    """Delete what a plan says, batch by batch; a batch that fails is noted, and the next one follows."""
    with reading(depot.engine) as session:
        for batch in planned(session, plan_id, "purge", KEYS_PER_DELETE):
            blob_ids = [item.blob_id for item in batch]
            try:
                purge_batch(depot, lease, plan_id, blob_ids, run_id=run_id, grace_days=grace_days)
            except StorageError as error:
                outcomes = [
                    Outcome(item.video_id or "", "failed", str(error), item.size_bytes, item.size_bytes, item.blob_id)
                    for item in batch
                ]
                with transaction(depot.engine, "purge.failed") as writing:
                    record_outcomes(writing, plan_id, outcomes)


def _may_pass(_task: object, _run: object, state: Any) -> bool:  # noqa: ANN401  Prefect's signature
    return isinstance(state.result(raise_on_failure=False), StorageError)


@task(
    task_run_name="purge a batch from blob {blob_ids[0]}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_jitter_factor=0.5,
    retry_condition_fn=_may_pass,
)
def purge_batch(depot: Depot, lease: Lease, plan_id: str, blob_ids: list[int], *, run_id: str, grace_days: int) -> None:
    """Delete one batch. Safe to repeat: what an earlier try had begun is finished."""
    lease.check()
    purge.purge(depot, plan_id, blob_ids, grant=lease.grant, run_id=run_id, grace_days=grace_days)
