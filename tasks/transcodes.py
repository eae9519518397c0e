"""Transcodes: the videos of a plan made smaller, a few at a time, each apart from the others."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple, cast
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import sweep_desks
from reelkeeper.errors import Frozen, LeaseLost, MediaTimeout, StorageError
from reelkeeper.model import Outcome, Tier
from reelkeeper.operations import swap
from reelkeeper.operations.depot import Depot
from reelkeeper.operations.freeze import why_frozen
from reelkeeper.operations.lease import Lease
from reelkeeper.operations.transcode import shrink
from reelkeeper.rules import transcode
from reelkeeper.rules.lifecycle import LifecyclePolicy
from reelkeeper.rules.transcode import Acceptance, Recipe
from reelkeeper.settings import settings
from reelkeeper.store.engine import reading, transaction
from reelkeeper.store.plans import Item, count_failures, planned, record_outcomes
from reelkeeper.store.videos import list_videos

# Of source in a batch: over a second of CPU, beside which a task run's 25 to 50 ms are little; and so much of it that
# they are next to nothing.
_LEAST_BYTES, _ENOUGH_BYTES = 100_000, 1_000_000
_SHARES = 16  # a batch takes at most this part of what is left
_MOST_BATCHES = 400  # Prefect's server loses records past some hundreds of task runs at once
_PROGRESS_PERCENT, _PROGRESS_SECONDS = 5, 3


class Job(NamedTuple):
    """What all transcodes of a run have in common."""

    plan_id: str
    run_id: str
    as_of: datetime
    policy: LifecyclePolicy
    recipe: Recipe
    acceptance: Acceptance


@task(task_run_name="identify the recipe", cache_policy=NO_CACHE)
def recipe_mark(recipe: Recipe, acceptance: Acceptance) -> str:
    """Identify recipe, acceptance and encoder: what was refused under the same mark is not tried again."""
    return transcode.fingerprint(recipe, acceptance, ffmpeg.tools().encoder(recipe.codec))


def compress_planned(depot: Depot, lease: Lease, job: Job) -> None:
    """Compress what a plan says, the largest first, `workers` at a time; try again at the end what may pass.

    Raises LeaseLost and Frozen, and starts nothing more then. Any other failure is the video's own.
    """
    with reading(depot.engine) as session:
        items = [item for batch in planned(session, job.plan_id, "compress") for item in batch]
    if not items:
        return
    if swept := sweep_desks(settings().scratch):
        get_run_logger().info("%s folders that killed runs left at work are removed", f"{swept:,}")
    progress = _Progress(len(items))
    runner: ThreadPoolTaskRunner[list[Item]] = ThreadPoolTaskRunner(max_workers=settings().workers)
    with runner:
        again = _compress_all(runner, depot, lease, job, items, progress=progress)
        _compress_all(runner, depot, lease, job, again, progress=progress, last_try=True)


def _compress_all(
    runner: ThreadPoolTaskRunner[list[Item]],
    depot: Depot,
    lease: Lease,
    job: Job,
    items: Sequence[Item],
    *,
    progress: "_Progress",
    last_try: bool = False,
) -> list[Item]:
    sizes: dict[PrefectFuture[list[Item]], int] = {}
    for batch in _batches(items):
        parameters = {"depot": depot, "lease": lease, "job": job, "items": batch, "last_try": last_try}
        sizes[runner.submit(compress_batch, parameters)] = len(batch)
    again: list[Item] = []
    for future in as_completed(list(sizes)):
        left = future.result()
        again += left
        progress.advance(sizes[future] - len(left))
    return again


@task(task_run_name="compress {items[0].video_id} and what follows", cache_policy=NO_CACHE)
def compress_batch(depot: Depot, lease: Lease, job: Job, items: list[Item], *, last_try: bool) -> list[Item]:
    """Compress a few videos one after the other; returns those that another try may mend, unless it is the last."""
    again = []
    for item in items:
        try:
            outcome = _compress(depot, lease, job, item)
        except (Frozen, LeaseLost):
            raise
        except (MediaTimeout, StorageError) as error:
            if not last_try:
                get_run_logger().warning("%s: %s; tried again at the end", item.video_id, error)
                again.append(item)
                continue
            outcome = _failed(item, error)
        except Exception as error:  # noqa: BLE001  one video that fails must not stop the others
            get_run_logger().exception("%s failed; the others go on", item.video_id)
            outcome = _failed(item, error)
        with transaction(depot.engine, "swap.record") as session:
            record_outcomes(session, job.plan_id, [outcome])
    return again


def _compress(depot: Depot, lease: Lease, job: Job, item: Item) -> Outcome:
    lease.check()
    if reason := why_frozen(depot.engine):
        raise Frozen(reason)
    video_id = item.video_id or ""
    grants = lease.keeper.take([f"video/{video_id}"])
    if not grants:
        why = "another run is at work on it"
        return Outcome(video_id, "skipped", why, item.size_bytes, item.size_bytes, item.blob_id)
    try:
        return swap.swap(
            depot,
            video_id,
            item.blob_id,
            shrink=partial(
                shrink,
                recipe=job.recipe,
                acceptance=job.acceptance,
                remaining_days=_remaining_days(depot, job, video_id),
                progress=lease.check,
                timed_out=partial(_timed_out, depot, item.blob_id),
            ),
            scratch=settings().scratch,
            grant=grants[0],
            run_id=job.run_id,
            grace_days=job.policy.grace_days,
        )
    finally:
        lease.keeper.release(grants)


def _remaining_days(depot: Depot, job: Job, video_id: str) -> int | None:
    """Tell what is left of the video's life by its user's tier, for the payback gate; None for ever, or unknown."""
    if job.recipe.payback.cpu_usd_per_hour is None:
        return None
    with reading(depot.engine) as session:
        found = list_videos(session, video_id=video_id)
    if not found or found[0].created_at is None or found[0].tier not in set(Tier):
        return None
    days = job.policy.retention_days()[Tier(found[0].tier)]
    return None if days is None else max(0, days - (job.as_of - found[0].created_at).days)


def _timed_out(depot: Depot, blob_id: int) -> int:
    with reading(depot.engine) as session:
        return count_failures(session, blob_id, MediaTimeout.__name__)


def _failed(item: Item, error: Exception) -> Outcome:
    why = f"{type(error).__name__}: {error}"
    return Outcome(item.video_id or "", "failed", why, item.size_bytes, item.size_bytes, item.blob_id)


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Group neighbours until a batch is worth a task run; ever fewer to the end, so that all workers end together."""
    left = sum(item.size_bytes for item in items)
    least = max(_LEAST_BYTES, left // _MOST_BATCHES)
    most = max(_ENOUGH_BYTES, least)
    batch: list[Item] = []
    size_bytes = 0
    for item in items:
        batch.append(item)
        size_bytes += item.size_bytes
        if size_bytes >= min(max(left // _SHARES, least), most):
            yield batch
            left -= size_bytes
            batch, size_bytes = [], 0
    if batch:
        yield batch


class _Progress:
    """Tells Prefect how far the run is, seldom: each update is a request and an event."""

    def __init__(self, items: int) -> None:
        self._items, self._done, self._shown, self._at = items, 0, 0.0, time.monotonic()
        made = create_progress_artifact(0.0, key="tier-storage-progress", description=f"{items:,} videos")
        self._artifact = cast("UUID", made)  # a coroutine only where an event loop runs

    def advance(self, items: int) -> None:
        """Note that so many more are settled."""
        self._done += items
        percent = 100 * self._done / self._items
        overdue = time.monotonic() - self._at >= _PROGRESS_SECONDS
        if self._done == self._items or (overdue and percent - self._shown >= _PROGRESS_PERCENT):
            update_progress_artifact(self._artifact, percent)
            get_run_logger().info("%s of %s videos", f"{self._done:,}", f"{self._items:,}")
            self._shown, self._at = percent, time.monotonic()
