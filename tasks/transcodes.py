"""Transcodes: compress the videos of a plan on any number of workers, each independent of the others."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, cast
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import sweep_scratch_dirs
from reelkeeper.errors import MediaTimeout, Misconfigured, StorageError
from reelkeeper.model import Outcome
from reelkeeper.operations import Item, Lease
from reelkeeper.operations.billing import limits
from reelkeeper.operations.core.isolation import ENDS_ALL
from reelkeeper.operations.core.lease import HeldLease, LeaseManager
from reelkeeper.operations.core.workspace import Workspace, open_workspace
from reelkeeper.operations.lifecycle import outcomes as carried_out
from reelkeeper.operations.lifecycle import plans
from reelkeeper.operations.lifecycle.compress import Batch, CompressionJob, claim, compress, load_job, may_go_on
from reelkeeper.rules.lifecycle import transcode
from reelkeeper.rules.lifecycle.lifecycle import Appraise, LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.settings import settings

_LOOK_AGAIN_SECONDS = 2.0  # while other workers hold all remaining videos, one of which may fail or die
_DASK_SECONDS = 10  # timeout for a scheduler that does not answer
_PROGRESS_PERCENT, _PROGRESS_SECONDS = 5, 3


class Order(NamedTuple):
    """An order to a worker, possibly in another process: the plan, and the lease of its run."""

    plan_id: str
    lease: Lease


@task(task_run_name="identify the recipe", cache_policy=NO_CACHE)
def recipe_mark(recipe: Recipe, acceptance: Acceptance) -> str:
    """Identify recipe, acceptance and encoder: a video refused under the same mark is not tried again."""
    return transcode.fingerprint(recipe, acceptance, ffmpeg.tools().encoder(recipe.codec))


def appraise(workspace: Workspace, recipe: Recipe) -> Appraise:
    """Return a function that values an encode in dollars, from the results and costs of earlier ones."""
    return plans.appraise(workspace.engine, recipe, ffmpeg.tools().encoder(recipe.codec))


def left_today(workspace: Workspace, policy: LifecyclePolicy) -> int | None:
    """Return the micro-dollars that compressing may still cost today; None without a limit."""
    return limits.left_for_compressing(workspace.engine, policy.compress_usd_per_day)


def compress_planned(workspace: Workspace, held: HeldLease, plan_id: str) -> list[Outcome]:
    """Compress a plan's videos, the largest first, `workers` at a time, until all are settled, here or by helpers.

    Transient failures are tried again at the end. Raises LeaseLost, Frozen and DiskFull; any other failure is recorded
    for its video. However this ends, nothing more begins under the lease of `held`.
    """
    if not carried_out.left(workspace.engine, plan_id)[0].objects:
        return []
    progress = _Progress(workspace, plan_id)
    width = min(settings().workers, carried_out.left(workspace.engine, plan_id)[0].objects)
    order = Order(plan_id, held.lease)
    with _runner(width) as runner:
        try:
            here = workspace if isinstance(runner, ThreadPoolTaskRunner) else None  # other processes open their own
            futures = [
                runner.submit(work, {"order": order, "number": n, "workspace": here}) for n in range(1, width + 1)
            ]
            while running := [future for future in futures if not future.wrapped_future.done()]:
                running[0].wait(timeout=_PROGRESS_SECONDS)
                progress.show()
            return [outcome for future in futures for outcome in future.result()]
        except BaseException:
            held.manager.release([held.lease])  # so that the helpers stop before their next video
            raise


def require_workers() -> None:
    """Raise Misconfigured unless the transcoding workers can be reached; called before a run's first change."""
    with _runner(1):
        pass


@contextmanager
def _runner(width: int) -> Iterator[TaskRunner[Any]]:
    """Choose the workers: threads of this process, or the configured Dask cluster."""
    address = settings().dask_address
    if address is None:
        with ThreadPoolTaskRunner[Any](max_workers=width) as threads:
            yield threads
        return
    try:
        from prefect_dask.task_runners import DaskTaskRunner  # noqa: PLC0415  an extra, and a second of CPU
    except ImportError as error:
        raise Misconfigured(
            f"REELKEEPER_DASK_ADDRESS is {address}, but prefect-dask is not installed: pip install 'reelkeeper[dask]'"
        ) from error
    with DaskTaskRunner(address=address, client_kwargs={"timeout": _DASK_SECONDS}) as cluster:
        try:
            workers = cluster.client.scheduler_info()["workers"]
        except (OSError, ValueError) as error:
            raise Misconfigured(f"no Dask scheduler answers at REELKEEPER_DASK_ADDRESS {address}: {error}") from error
        if not workers:
            raise Misconfigured(
                f"the Dask scheduler at {address} has no workers: start one with `dask worker {address}`"
            )
        yield cluster


@task(task_run_name="worker {number}", cache_policy=NO_CACHE)
def work(order: Order, number: int, workspace: Workspace | None) -> list[Outcome]:  # noqa: ARG001  the run name has the number
    """Compress the batches of a plan one by one until none is left; return the outcome of each video."""
    if swept := sweep_scratch_dirs(settings().scratch):
        get_run_logger().info("removed %s scratch folders of killed runs", f"{swept:,}")
    outcomes: list[Outcome] = []
    with (
        nullcontext(workspace) if workspace else open_workspace(settings()) as place,
        LeaseManager(place.engine) as manager,
    ):
        job = load_job(place.engine, order.plan_id)
        while may_go_on(place.engine, *order):
            if batch := claim(place.engine, manager, order.plan_id):
                outcomes += compress_batch(place, manager, order, job, batch)
            elif carried_out.left(place.engine, order.plan_id)[0].objects:
                time.sleep(_LOOK_AGAIN_SECONDS)
            else:
                break
    return outcomes


@task(task_run_name="compress the batch from {batch.items[0][0].video_id}", cache_policy=NO_CACHE)
def compress_batch(
    workspace: Workspace, manager: LeaseManager, order: Order, job: CompressionJob, batch: Batch
) -> list[Outcome]:
    """Compress a batch of videos one by one; those worth a retry are left for the end, unless it is their last try."""
    outcomes = []
    try:
        for item, lease in batch.items:
            if not may_go_on(workspace.engine, *order):
                break
            outcome = _settle(workspace, manager, job, item, lease, last_try=batch.last_try)
            carried_out.record(workspace.engine, "swap.record", job.plan_id, [outcome])
            manager.release([lease])
            if carried_out.is_settled(outcome):
                outcomes.append(outcome)
    finally:
        manager.release([lease for _, lease in batch.items])
    return outcomes


def _settle(
    workspace: Workspace, manager: LeaseManager, job: CompressionJob, item: Item, lease: Lease, *, last_try: bool
) -> Outcome:
    try:
        return compress(workspace, manager, job, item, lease, scratch=settings().scratch)
    except ENDS_ALL:  # such as a full disk, which is not the video's fault
        raise
    except (MediaTimeout, StorageError) as error:
        if not last_try:
            get_run_logger().warning("%s: %s; tried again at the end", item.video_id, error)
        return carried_out.failed(item, error, again=not last_try)
    except Exception as error:  # noqa: BLE001  one video that fails must not stop the others
        get_run_logger().exception("%s failed; the others go on", item.video_id)
        return carried_out.failed(item, error)


class _Progress:
    """Reports the plan's progress on all workers to Prefect; rarely, since each update is a request and an event."""

    def __init__(self, workspace: Workspace, plan_id: str) -> None:
        self._workspace, self._plan_id, self._shown, self._at = workspace, plan_id, 0.0, time.monotonic()
        videos = carried_out.left(workspace.engine, plan_id)[1].objects
        made = create_progress_artifact(0.0, key="tier-storage-progress", description=f"{videos:,} videos")
        self._artifact = cast("UUID", made)  # a coroutine only inside an event loop

    def show(self) -> None:
        """Report the share of videos that are settled by now."""
        left, everything = carried_out.left(self._workspace.engine, self._plan_id)
        percent = 100 * (1 - left.objects / everything.objects)
        overdue = time.monotonic() - self._at >= _PROGRESS_SECONDS
        if percent > self._shown and (not left.objects or (overdue and percent - self._shown >= _PROGRESS_PERCENT)):
            update_progress_artifact(self._artifact, percent)
            get_run_logger().info(
                "%s of %s videos are settled", f"{everything.objects - left.objects:,}", f"{everything.objects:,}"
            )
            self._shown, self._at = percent, time.monotonic()
