"""Transcodes: compress the videos of a plan on any number of workers, each independent of the others."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, cast
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg.intake import sweep_scratch_dirs
from reelkeeper.errors import MediaTimeout, Misconfigured, NoRoom, ReelkeeperError, StorageError
from reelkeeper.model import Outcome
from reelkeeper.operations import Item, Lease, OperationalError, safe_to_repeat
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.core import machine
from reelkeeper.operations.core.isolation import ENDS_ALL, UNFIT
from reelkeeper.operations.core.lease import PATIENCE_SECONDS, HeldLease, LeaseManager
from reelkeeper.operations.core.workspace import Workspace, open_workspace
from reelkeeper.operations.lifecycle import outcomes as carried_out
from reelkeeper.operations.lifecycle import plans
from reelkeeper.operations.lifecycle.compress import Batch, CompressionJob, claim, compress, load_job, may_go_on
from reelkeeper.rules.core.wording import many
from reelkeeper.settings import settings
from tasks import going_on

_LOOK_AGAIN_SECONDS = 2.0  # while other workers hold all remaining videos, one of which may fail or die
_OTHERS_SECONDS = 10.0  # in which a helper takes its next video
_DASK_SECONDS = 10  # timeout for a scheduler that does not answer
_PROGRESS_PERCENT, _PROGRESS_SECONDS = 5, 3


class WorkOrder(NamedTuple):
    """An order to a worker, possibly on another machine: the plan, the lease of its run, and whose videos they are."""

    plan_id: str
    lease: Lease
    deployment_id: str


class Worked(NamedTuple):
    """What a worker did, and why its machine could not go on, if it could not."""

    outcomes: list[Outcome]
    machine: str
    fault: ReelkeeperError | None


def compress_planned(workspace: Workspace, held: HeldLease, plan_id: str, *, is_helped: bool = False) -> list[Outcome]:
    """Compress a plan's videos, the largest first, `workers` at a time, until all are settled, here or by helpers.

    Transient failures are tried again at the end. A machine that cannot go on ends its part, and the others do the
    rest; with `is_helped`, helpers get time to take their next video. Where there are none, raises DiskFull,
    ToolMissing, SchemaError or IdentityMismatch. Raises LeaseLost and Frozen; any other failure is recorded for its
    video. However this ends, nothing more begins under the lease of `held`.
    """
    left = carried_out.left(workspace.engine, plan_id)[0].objects
    if not left:
        return []
    progress = _Progress(workspace, plan_id)
    width = min(settings().workers, left)
    order = WorkOrder(plan_id, held.lease, workspace.deployment_id)
    with _runner(width) as runner:
        try:
            here = workspace if isinstance(runner, ThreadPoolTaskRunner) else None  # other processes open their own
            futures = [
                runner.submit(work, {"order": order, "number": n, "workspace": here}) for n in range(1, width + 1)
            ]
            while running := [future for future in futures if not future.wrapped_future.done()]:
                running[0].wait(timeout=_PROGRESS_SECONDS)
                progress.show()
            worked: list[Worked] = [future.result() for future in futures]
            faults = {each.machine: each.fault for each in worked if each.fault}
            _leave_to_others(workspace, order, faults, progress, _OTHERS_SECONDS if is_helped else 0.0)
            return [outcome for each in worked for outcome in each.outcomes]
        except BaseException as ended:
            # guard machines.terminated: a run that is told to end goes on until its encoders have ended by themselves
            if isinstance(ended, TerminationSignal):
                ffmpeg.stop()
            held.manager.release([held.lease])  # so that the helpers stop before their next video
            raise


def _leave_to_others(
    workspace: Workspace,
    order: WorkOrder,
    faults: Mapping[str, ReelkeeperError],
    progress: "_Progress",
    patience_seconds: float,
) -> None:
    """Alert people to machines that could not go on, and wait while others do the rest. Raises a fault where none do.

    None do where nobody has worked for `patience_seconds`. A helper does not wait: its run is done again elsewhere.
    """
    for place, fault in faults.items():
        get_run_logger().warning("machine %s ends its part of the work: %s", place, fault)
        alerts.tell_unfit(workspace.engine, place, type(fault).__name__, str(fault), run_id=order.plan_id)
    until = time.monotonic() + patience_seconds
    while faults and carried_out.left(workspace.engine, order.plan_id)[0].objects:
        if plans.others_at_work(workspace.engine, order.plan_id):
            until = time.monotonic() + _OTHERS_SECONDS
        # guard machines.helped: a plan ends for all its helpers because the machine of its run cannot work
        if not plans.is_own(order.lease, order.plan_id) or time.monotonic() > until:
            raise next(iter(faults.values()))
        may_go_on(workspace.engine, order.plan_id, order.lease)
        progress.show()
        time.sleep(_LOOK_AGAIN_SECONDS)


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
def work(order: WorkOrder, number: int, workspace: Workspace | None) -> Worked:  # noqa: ARG001  the run name has the number
    """Compress the batches of a plan one by one until none is left, or until this machine cannot go on."""
    outcomes: list[Outcome] = []
    try:
        if workspace is None:
            # guard machines.dask: a Dask worker without settings makes a store and a bucket of its own
            machine.require_deployment(settings(), order.deployment_id, patience_seconds=PATIENCE_SECONDS)
        if swept := sweep_scratch_dirs(settings().scratch):
            get_run_logger().info("removed %s scratch folders of killed runs", f"{swept:,}")
        opened = nullcontext(workspace) if workspace else open_workspace(settings(), patience_seconds=PATIENCE_SECONDS)
        with opened as place, LeaseManager(place.engine) as manager:
            _work(place, manager, order, outcomes)
    except UNFIT as fault:  # its videos are free again, and other machines take them
        return Worked(outcomes, machine.name(), fault)
    return Worked(outcomes, machine.name(), None)


def _work(workspace: Workspace, manager: LeaseManager, order: WorkOrder, outcomes: list[Outcome]) -> None:
    job = load_job(workspace.engine, order.plan_id)
    while (done := _take_turn(workspace, manager, order, job)) is not None:
        outcomes += done


@safe_to_repeat
def _take_turn(
    workspace: Workspace, manager: LeaseManager, order: WorkOrder, job: CompressionJob
) -> list[Outcome] | None:
    """Compress the next batch of a plan, or wait for others; None where nothing is left to do."""
    if not may_go_on(workspace.engine, order.plan_id, order.lease):
        return None
    # guard machines.batches: a machine that cannot work takes videos, and keeps others from them
    machine.require_fit(workspace.engine, settings().scratch)
    if batch := claim(workspace.engine, manager, order.plan_id):
        return compress_batch(workspace, manager, order, job, batch)
    if not carried_out.left(workspace.engine, order.plan_id)[0].objects:
        return None
    time.sleep(_LOOK_AGAIN_SECONDS)
    return []


@task(task_run_name="compress the batch from {batch.items[0][0].video_id}", cache_policy=NO_CACHE)
def compress_batch(
    workspace: Workspace, manager: LeaseManager, order: WorkOrder, job: CompressionJob, batch: Batch
) -> list[Outcome]:
    """Compress a batch of videos one by one; those worth a retry are left for the end, unless it is their last try.

    A lost connection to the store ends the batch; it is raised where no video was settled.
    """
    outcomes = []
    try:
        for item, lease in batch.items:
            if not may_go_on(workspace.engine, order.plan_id, order.lease):
                break
            outcome = _settle(workspace, manager, job, item, lease, last_try=batch.last_try)
            carried_out.record(workspace.engine, "swap.record", job.plan_id, [outcome])
            manager.release([lease])
            if carried_out.is_settled(outcome):
                outcomes.append(outcome)
    except OperationalError:
        if not outcomes:
            raise
    finally:
        manager.release([lease for _, lease in batch.items])
    return outcomes


def _settle(
    workspace: Workspace, manager: LeaseManager, job: CompressionJob, item: Item, lease: Lease, *, last_try: bool
) -> Outcome:
    try:
        return compress(workspace, manager, job, item, lease, scratch=settings().scratch)
    # guard machines.room_for_one: a video too large for the scratch disk keeps all others from being compressed
    except NoRoom as full:
        get_run_logger().warning("%s: %s", item.video_id, full)
        return carried_out.failed(item, full, again=not last_try)  # a machine with a larger disk may take it
    except ENDS_ALL:  # such as a full disk or a missing ffmpeg, which is not the video's fault
        raise
    except (MediaTimeout, StorageError) as error:
        if not last_try:
            get_run_logger().warning("%s: %s; tried again at the end", item.video_id, error)
        return carried_out.failed(item, error, again=not last_try)
    except Exception as error:  # noqa: BLE001  one video that fails must not stop the others
        get_run_logger().exception("%s failed; the others go on", item.video_id)
        return carried_out.failed(item, error)


class _Progress:
    """Reports the plan's progress on all workers to Prefect; rarely, since each update is a request and an event.

    Where Prefect's server or the store does not answer at that moment, the work goes on without.
    """

    def __init__(self, workspace: Workspace, plan_id: str) -> None:
        self._workspace, self._plan_id, self._shown, self._at = workspace, plan_id, 0.0, time.monotonic()
        videos, self._artifact = carried_out.left(workspace.engine, plan_id)[1].objects, None
        with going_on():
            made = create_progress_artifact(0.0, key="tier-storage-progress", description=many(videos, "video"))
            self._artifact = cast("UUID", made)  # a coroutine only inside an event loop

    @going_on()
    def show(self) -> None:
        """Report the share of videos that are settled by now."""
        left, everything = carried_out.left(self._workspace.engine, self._plan_id)
        percent = 100 * (1 - left.objects / everything.objects)
        overdue = time.monotonic() - self._at >= _PROGRESS_SECONDS
        if percent > self._shown and (not left.objects or (overdue and percent - self._shown >= _PROGRESS_PERCENT)):
            if self._artifact:
                update_progress_artifact(self._artifact, percent)
            get_run_logger().info(
                "%s of %s videos are settled", f"{everything.objects - left.objects:,}", f"{everything.objects:,}"
            )
            self._shown, self._at = percent, time.monotonic()
