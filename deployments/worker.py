"""A process worker of Prefect that drains on a signal to stop, and runs missed schedules once.

Prefect's own worker leaves its runs in state Running when it is stopped, with their slots held; when it is killed, its
runs go on without it; when its machine or container is, only automations end them; it gives up when the server is
unreachable; and after an hour without a worker it runs everything that was due meanwhile.
"""

import asyncio
import math
import os
import shlex
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import httpx
from anyio.abc import TaskStatus
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed, Failed
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from deployments.engine import CLOSE, HAND_OVER
from deployments.folder import HOME
from deployments.forkserver import FORKSERVER, client
from deployments.machine import ON_VIDEOS, Machine
from deployments.pools import AT_WORK, PAGE, in_pools, polling_emptied, superseded
from deployments.prefect_internals import run_healthcheck_server
from reelkeeper.errors import DiskFull, IdentityMismatch, ReelkeeperError, SchemaError, Unavailable
from reelkeeper.store.core.leases import LEASE_SECONDS

TERMINATE_TIMEOUT_SECONDS: Final = 5.0  # for a run that is handed over to stop cleanly; then it is killed
_HANDED_OVER: Final = "Its worker was stopped and handed it over"
_MISSED: Final = "Missed: no worker was running, and a later run of the same schedule does its work"
_ONLY_LOOKS: Final = (
    "Refused, and nothing was changed: `reelkeeper up` did not create this bucket, so its worker makes dry runs only. "
    "Run it with dry_run: true, or go live with `reelkeeper up --live`"
)
_DISPATCH: Final = "dispatch-jobs"
_RESTS: Final = "No job was there for half an hour; a run is started as soon as one waits"
_DIED: Final = "Its process died with the worker that ran it"
_TICK_SECONDS: Final = 0.2
_TURNS: Final = {"encode": 2}  # runs of minutes begin seconds later: each query costs the server 30 to 45 ms of CPU
# Inodes of the initial namespaces of a machine, from include/linux/proc_ns.h.
_MACHINES_NAMES, _MACHINES_PROCESSES = 4026531838, 4026531836


class Configuration(ProcessJobConfiguration):
    """Runs deployments/engine.py instead of Prefect's engine, under `up` by its fork server."""

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  as Prefect calls it
        """Set the command."""
        self.command = self.command or shlex.join(client(os.environ.get(FORKSERVER, ""), "-m", "deployments.engine"))
        super().prepare_for_flow_run(*args, **kwargs)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # in this process, it replaces Prefect's worker of the same type

    class Worker(ProcessWorker):
        """The worker of one pool in this process. `at_work` maps the ids of its runs to their names."""

        job_configuration = Configuration

        def __init__(self, pool: str, limit: int, machine: Machine | None = None) -> None:
            super().__init__(
                pool, name=f"{pool} {socket.gethostname()} {os.getpid()}", limit=limit, create_pool_if_not_found=False
            )
            self.at_work: dict[UUID, str] = {}
            self.is_draining, self._turn = False, -1
            self.refused = asyncio.Event()  # set, with the reason, once this machine may take no runs
            self.reason: ReelkeeperError | None = None
            self._machine = machine
            self._pids: dict[UUID, int] = {}
            self._signalled: dict[UUID, signal.Signals] = {}  # the last signal to each run that is handed over
            self._heard: dict[UUID, datetime | None] = {}  # heartbeats of workers of 0.1.0
            self._told = set[UUID]()  # those of them that people were alerted to
            # By then the leases of dead runs have expired, so that the runs which replace them are not refused.
            self._dead_looked_for_at = time.monotonic() + LEASE_SECONDS

        @property
        def is_idle(self) -> bool:
            """Check that it has no active run and none that it is about to start."""
            return not self.at_work and not self._submitting_flow_run_ids

        async def get_and_submit_flow_runs(self) -> list[FlowRun]:
            """Start due runs, unless it drains. An unreachable server is queried again, without a time limit."""
            # guard outages.healthy: a worker is restarted, with its runs, since Prefect's server or the store is away
            self._last_polled_time = datetime.now(UTC)  # of its health check: that it asks, with whatever answer
            self._turn += 1
            if self.is_draining or self._turn % _TURNS.get(self._work_pool_name, 1):
                return []
            try:
                if not self._has_successfully_synced:  # its pool may have been created since
                    await super()._sync_and_initialize()
                if self._dead_looked_for_at <= time.monotonic():
                    await self._end_dead_runs()
                    self._dead_looked_for_at = math.inf  # only now: until here an unreachable server is queried again
                return await super().get_and_submit_flow_runs()
            except httpx.HTTPError as error:
                self._logger.warning("Prefect's server does not answer: %r", error)
                return []
            except Unavailable as error:
                self._logger.warning("The store does not answer, so no run is taken: %s", error)
                return []

        async def _sync_and_initialize(self) -> None:
            try:
                await super()._sync_and_initialize()
                await self._tell_of_earlier_workers()
            except httpx.HTTPError as error:
                self._logger.warning("Prefect's server does not answer: %r", error)
            except ReelkeeperError as error:  # told at the next heartbeat, or the next run ends this worker
                self._logger.warning("The store does not answer: %s", error)

        async def _tell_of_earlier_workers(self) -> None:
            """Alert people to each worker of 0.1.0 that polls: one whose heartbeat is newer than when it was seen."""
            if self._machine is None:
                return
            for pool, found in await polling_emptied(self.client):
                heard = self._heard.setdefault(found.id, found.last_heartbeat_time)
                # A worker that was stopped or replaced in order counts as online for 90 seconds more.
                if heard != found.last_heartbeat_time and found.id not in self._told:
                    await asyncio.to_thread(self._machine.tell_of_earlier, found.name, pool)
                    self._told.add(found.id)

        async def _end_dead_runs(self) -> None:
            """Mark runs whose process here is gone as crashed: Prefect may notice 15 minutes later, or never."""
            pool = in_pools(self._work_pool_name)
            for run in await self.client.read_flow_runs(flow_run_filter=AT_WORK, work_pool_filter=pool, limit=PAGE):
                if died_here(run):
                    await self.client.set_flow_run_state(run.id, Crashed(message=_DIED))
                    self._logger.warning("Run %s has crashed: %s", run.name, _DIED)

        async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
            found = await super()._get_scheduled_flow_runs()
            missed = superseded([flow_run.flow_run for flow_run in found])
            for run_id in missed:
                await self.client.set_flow_run_state(run_id, Cancelled(message=_MISSED))
            refused = {due.flow_run.id for due in found if await self._would_change(due.flow_run)}
            for run_id in refused - missed:
                await self.client.set_flow_run_state(run_id, Failed(name="Refused", message=_ONLY_LOOKS), force=True)
            kept = [flow_run for flow_run in found if flow_run.flow_run.id not in missed | refused]
            if not kept or self._machine is None:
                return kept
            if await self._is_fit():
                return [flow_run for flow_run in kept if not await self._is_left_out(flow_run.flow_run)]
            # guard machines.takes: a machine without ffmpeg takes every night's run, and gives it back, until morning
            return [flow_run for flow_run in kept if await self._is_light(flow_run.flow_run)]

        async def _is_fit(self) -> bool:
            """Look at the machine before it takes runs; return whether it may take all of them."""
            machine = cast("Machine", self._machine)
            try:
                await asyncio.to_thread(machine.look)
            except (IdentityMismatch, SchemaError) as error:
                self.reason = error
                self.refused.set()
                return False
            return machine.unfit is None

        async def _is_light(self, run: FlowRun) -> bool:
            """Check that a run may be taken by a machine that cannot work on videos."""
            return self.reason is None and (await self.client.read_flow(run.flow_id)).name not in ON_VIDEOS

        async def _is_left_out(self, run: FlowRun) -> bool:
            """Complete a scheduled run of dispatch_jobs at once if no job is there; return whether it was."""
            # guard dispatch.dry: where the schedule makes dry runs, the watchdog takes each for a success
            if not run.auto_scheduled or run.parameters.get("dry_run") is not False:
                return False
            if (await self.client.read_flow(run.flow_id)).name != _DISPATCH:
                return False
            try:
                rests = await asyncio.to_thread(cast("Machine", self._machine).may_rest, str(run.id))
            # guard dispatch.full: a worker ends, with all its runs, as the store's disk is full, and no job is there
            except DiskFull:
                return False  # the run begins, and says so
            if not rests:
                return False
            await self.client.set_flow_run_state(run.id, Completed(message=_RESTS))
            return True

        async def _would_change(self, run: FlowRun) -> bool:
            """Check whether a run is to change a bucket that this worker may not change."""
            # guard up.worker_refuses: a form, an automation or the API changes a bucket that `up` only looks at
            if self._machine is None or not self._machine.dry_only or run.parameters.get("dry_run") is True:
                return False
            return (await self.client.read_flow(run.flow_id)).name in self._machine.dry_only

        async def run(
            self,
            flow_run: FlowRun,
            configuration: ProcessJobConfiguration,
            task_status: TaskStatus[int] | None = None,
        ) -> ProcessWorkerResult:
            """Run a flow run and track it; reschedule it if it was handed over."""
            self.at_work[flow_run.id] = configuration.labels.get("prefect.io/flow-name", flow_run.name)
            try:
                noting = _Noting(self._pids, flow_run.id, task_status)
                result = await super().run(flow_run, configuration, noting)  # type: ignore[arg-type]  # all that is asked of one
                if flow_run.id not in self._signalled and not await self._was_given_back(flow_run.id, result):
                    return result
                await self._put_back(flow_run.id)
                return ProcessWorkerResult(identifier=result.identifier, status_code=0)  # others mean that it crashed
            finally:
                self.at_work.pop(flow_run.id, None)
                self._pids.pop(flow_run.id, None)

        async def _was_given_back(self, run_id: UUID, result: ProcessWorkerResult) -> bool:
            """Check whether a run ended in order without a final state: its machine could not do it."""
            state = (await self.client.read_flow_run(run_id)).state
            return result.status_code == 0 and state is not None and state.is_running()

        async def _put_back(self, run_id: UUID) -> None:
            state = (await self.client.read_flow_run(run_id)).state
            # A failure while it is being stopped is usually caused by that; any other will recur when it runs again.
            if state is None or state.is_crashed() or state.is_failed() or not state.is_final():
                await self.client.set_flow_run_state(run_id, AwaitingRetry(message=_HANDED_OVER))

        def hand_over(self, number: signal.Signals) -> None:
            """Signal each active run to stop, once; the next worker starts it again."""
            self._signal([run for run in self._pids if self._signalled.get(run) != number], number)

        def drain(self) -> None:
            """Start no more runs, and let those of dispatch_jobs claim no more jobs: idle ones end at once."""
            self.is_draining = True
            self._signal([run for run, name in self.at_work.items() if name == _DISPATCH and run in self._pids], CLOSE)

        def _signal(self, runs: Sequence[UUID], number: signal.Signals) -> None:
            self._signalled.update(dict.fromkeys(runs, number))
            for run in runs:
                with suppress(ProcessLookupError):
                    os.kill(self._pids[run], number)


class _Noting:
    """Notes the process id of a started run, and reports it to Prefect together with the machine or container."""

    def __init__(self, pids: dict[UUID, int], run_id: UUID, status: TaskStatus[int] | None) -> None:
        self._pids, self._run_id, self._status = pids, run_id, status

    def started(self, pid: int) -> None:
        self._pids[self._run_id] = pid
        if self._status:
            self._status.started(f"{here()}:{pid}" if here() else pid)  # type: ignore[arg-type]  # kept as a text


@cache
def here() -> str | None:
    """Identify the machine or container of this process; None if others may have the same name."""
    own_processes, own_name = (Path(f"/proc/self/ns/{kind}").stat().st_ino for kind in ("pid", "uts"))
    return None if own_name == _MACHINES_NAMES and own_processes != _MACHINES_PROCESSES else socket.gethostname()


def died_here(run: FlowRun) -> bool:
    """Check whether a run's process belonged to this machine or container and no longer exists."""
    place, _, pid = (run.infrastructure_pid or "").rpartition(":")
    if not place or place != here() or not pid.isdigit():
        return False
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except FileNotFoundError:
        return True
    except OSError:  # a process of another user, so not one of our worker's
        return False
    return f"PREFECT__FLOW_RUN_ID={run.id}".encode() not in environment.split(b"\0")


async def work(
    pools: Sequence[str],
    *,
    limit: int,
    patience: float,
    healthcheck: bool,
    say: Callable[[str], None],
    machine: Machine,
    beside: Callable[[threading.Event], None] | None = None,
) -> None:
    """Work for these pools until SIGTERM or SIGINT, then drain; a second signal hands over at once.

    `beside` runs in a thread until draining begins. Raises IdentityMismatch or SchemaError once `machine` may take no
    runs; those that it has are handed over at once.
    """
    os.environ.setdefault(HOME, os.getcwd())  # noqa: PTH109  as it is written, links and all
    workers = [Worker(pool, limit, machine) for pool in pools]
    stopping, hurried = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurried if stopping.is_set() else stopping).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    with ExitStack() as stack:
        if healthcheck:
            seconds = PREFECT_WORKER_QUERY_SECONDS.value()
            stack.enter_context(
                run_healthcheck_server(lambda: all(worker.is_worker_still_polling(seconds) for worker in workers))
            )
        stop = stack.enter_context(running_beside(beside)) if beside else threading.Event()
        running = [asyncio.create_task(worker.start(printer=say)) for worker in workers]
        waiting = [asyncio.create_task(event.wait()) for event in (stopping, *(worker.refused for worker in workers))]
        await asyncio.wait([*waiting, *running], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        reasons = [worker.reason for worker in workers if worker.reason]
        if reasons:
            hurried.set()
        await _drain(workers, patience, hurried, say)
        for task in (*waiting, *running):
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
    for error in (*reasons, *ended):
        if isinstance(error, Exception):
            raise error


@contextmanager
def running_beside(act: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Run a function in its own thread while the context is open; on leaving, its current batch has time to end."""
    stop = threading.Event()
    thread = threading.Thread(target=act, args=(stop,), name="follow-bucket", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(TERMINATE_TIMEOUT_SECONDS)


async def _drain(
    workers: Sequence[Worker], patience: float, hurried: asyncio.Event, say: Callable[[str], None]
) -> None:
    for worker in workers:
        worker.drain()
    names = [name for worker in workers for name in worker.at_work.values()]
    if names:
        say(f"Takes no more runs, waits up to {patience:.0f} s for {', '.join(names)}; once more hands them over.")
    if await _idle(workers, patience, hurried):
        return
    for number in (HAND_OVER, signal.SIGKILL):
        names = [name for worker in workers for name in worker.at_work.values()]
        say(f"Hands over {', '.join(names) or 'the run that was about to begin'}: the next worker starts it again.")
        if await _idle(workers, TERMINATE_TIMEOUT_SECONDS, number=number):
            return


async def _idle(
    workers: Sequence[Worker],
    seconds: float,
    hurried: asyncio.Event | None = None,
    number: signal.Signals | None = None,
) -> bool:
    """Wait until no worker has a run; with `number`, each gets that signal, also one that begins only now."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while not all(worker.is_idle for worker in workers):
        if number:
            for worker in workers:
                worker.hand_over(number)
        if loop.time() > ends or (hurried and hurried.is_set()):
            return False
        await asyncio.sleep(_TICK_SECONDS)
    return True
