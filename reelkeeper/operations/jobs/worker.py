"""Claim a job for each free slot, run it, and claim the next at once.

Slots do not wait for each other. A heartbeat renews all claims every 15 seconds. After its window a worker claims no
more jobs: those that continue at a provider are handed over to the next worker, and the others are finished.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path

from reelkeeper.adapters.providers.contract import Generator, Generators
from reelkeeper.adapters.s3.keys import PROBE_BYTES
from reelkeeper.disk import make_folder
from reelkeeper.errors import DiskFull, KeyTaken, StorageError
from reelkeeper.failpoints import effect
from reelkeeper.model.jobs import End
from reelkeeper.operations.alerts.alerts import observe_within
from reelkeeper.operations.core.lease import GIVE_UP_SECONDS, HEARTBEAT_SECONDS, LeaseManager, new_holder
from reelkeeper.operations.core.machine import name as machine_name
from reelkeeper.operations.core.machine import require_fit
from reelkeeper.operations.core.overrides import followed
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs.run import JobRun, WorkerContext, run_job
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.jobs.attempts import AttemptPolicy
from reelkeeper.rules.jobs.dispatch import DispatchPolicy
from reelkeeper.rules.policies import Policies
from reelkeeper.store import DBAPIError, SQLAlchemyError
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.jobs import claims, slots

_TRY_SECONDS = 15.0
LOOK_SECONDS = 2.0  # between two polls for jobs while a slot is free
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shift:
    """The terms of a worker's run: how many jobs at once, for how long, and its exceptions to the policies."""

    slots: int
    seconds: float  # for which it claims new jobs
    until_idle: bool = False  # end earlier, once no job is due
    order: DispatchPolicy | None = None  # exceptions of this run to the policies in force
    tiers: Tiers | None = None
    attempts: AttemptPolicy | None = None
    closing: threading.Event = field(default_factory=threading.Event)  # once set, it ends as after its seconds


def work(
    workspace: Workspace,
    generators: Generators | Generator,
    shift: Shift,
    *,
    run_id: str,
    scratch: Path,
    limit: Callable[[], int],
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> Counter[End]:
    """Run jobs in a thread for each slot until the shift is over; return the number of jobs by outcome.

    Each claim and each job follows the policies in force at that time, with the shift's exceptions. `limit` gives how
    many may run at once over all workers; it is called before each claim. A machine that cannot work ends the shift
    with DiskFull, ToolMissing or SchemaError, without failing a job. If the store answers again before its claims are
    given up, nothing is lost. Any error here, or in this thread, hands over every job at once.
    """
    make_folder(scratch)
    with LeaseManager(workspace.engine) as manager:
        several = generators if isinstance(generators, Generators) else Generators.alone(generators)
        context = WorkerContext(workspace, several, manager, scratch, run_id)
        worker = _Worker(context, shift, limit)
        with _beating(context, worker.at_work, heartbeat_seconds):
            worker.run()
    return worker.ends


class _Worker:
    """The slots of one run: the job in each, and the models that free slots have loaded."""

    def __init__(self, context: WorkerContext, shift: Shift, limit: Callable[[], int]) -> None:
        self.ends: Counter[End] = Counter()
        self._context, self._shift, self._limit = context, shift, limit
        self._name = new_holder()
        self._warm: list[str | None] = [None] * shift.slots  # the models of the free slots
        self._busy: dict[Future[End], JobRun] = {}
        self._is_new = True  # nothing was claimed yet
        self._next_try = 0.0  # when the bucket is asked again, which did not take a video
        self._silent_since: float | None = None  # since when the store does not answer

    def at_work(self) -> list[JobRun]:
        """List the jobs that this worker has now, for the heartbeat's thread."""
        return list(self._busy.values())

    def run(self) -> None:
        ends = time.monotonic() + self._shift.seconds
        with ThreadPoolExecutor(self._shift.slots, "job") as pool:
            try:
                while time.monotonic() < ends and not self._shift.closing.is_set():
                    claimed = self._fill(pool)
                    if self._shift.until_idle and claimed == 0 and not self._busy:
                        break
                    self._collect(LOOK_SECONDS)
                self._context.closing.set()
                while self._busy:
                    self._collect(LOOK_SECONDS)
            except BaseException:
                self._context.ending.set()
                raise

    def _fill(self, pool: ThreadPoolExecutor) -> int | None:
        """Claim a job for each free slot; return how many there were, or None where the store did not answer."""
        if self._context.unfit:
            raise self._context.unfit[0]
        if not self._warm:
            return 0
        try:
            # guard outages.limit: a worker hands over all its jobs because the store restarts as it reads their limit
            limit = self._limit()
            # guard machines.claims: a machine that cannot work claims jobs, and holds them up
            require_fit(self._context.engine, self._context.scratch)
            if self._is_new:
                self._recall_bucket()
            # guard claims.no_bucket: clips are bought while the bucket takes none, and their vendors' URLs expire
            if self._context.unstored.is_set() and not self._bucket_takes():
                return 0
            # guard outages.looked_first: a store that fails right after a claim costs each claimed job an attempt
            running, policies = self._look()
            claimed = claiming.claim(
                self._context.engine,
                self._name,
                self._warm,
                limit=limit,
                order=self._shift.order,
                tiers=self._shift.tiers,
                served=self._context.generators.served,
            )
        except DiskFull:
            # guard machines.own_jobs: a clip that fills the disk while it is fetched ends the run, and is claimed first
            if not self._busy:
                raise
            return 0
        except DBAPIError:  # a claim that was made anyway is not renewed, and expires in a minute
            self._silent_since = self._silent_since or time.monotonic()
            if time.monotonic() - self._silent_since > GIVE_UP_SECONDS:
                raise
            _log.warning("no jobs were claimed because the store did not answer; trying again", exc_info=True)
            return None
        self._silent_since = None
        to = {item.id: self._context.generators.served.lane(item.lane) for item in claimed}
        running.update(to.values())
        for item in claimed:
            self._warm.remove(item.model if item.model in self._warm else self._warm[0])
            job = JobRun(self._context, item, policies.attempts_of(item.model))
            job.ran_beside.append(running[to[item.id]])  # a short job may end before the heartbeat counts
            future = pool.submit(run_job, self._context, job)
            self._busy[future] = job
            future.add_done_callback(lambda _: self._context.woken.set())
        return len(claimed)

    def _recall_bucket(self) -> None:
        """Learn from the store whether the bucket did not take what another worker has made."""
        with reading(self._context.engine) as session:
            if slots.is_bucket_away(session):
                self._context.unstored.set()
        self._is_new = False

    def _bucket_takes(self) -> bool:
        """Ask the bucket, at most every 15 s, whether it takes objects again; record the answer for other workers."""
        if time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + _TRY_SECONDS
        bucket = self._context.workspace.bucket
        try:
            with suppress(KeyTaken), effect("worker.probe"):  # it is left there
                # guard claims.same_probe: once a worker has put others there, doctor calls the bucket unfit for ever
                bucket.put_bytes_once(bucket.probe_key, PROBE_BYTES, "text/plain")
            found = []
            self._context.unstored.clear()
        except StorageError as error:
            found = [alerting.bucket_refuses(machine_name(), str(error))]
        with transaction(self._context.engine, "worker.bucket") as session:
            if slots.note_bucket(session, machine_name(), is_away=bool(found)):
                # guard claims.bucket_told: for hours no job is begun, and nobody is told why
                observe_within(session, found, rules=[alerting.BUCKET_REFUSES], run_id=self._context.run_id)
        return not found

    def _look(self) -> tuple[Counter[str | None], Policies]:
        return _count_running(self._context), followed(self._context.engine, attempts=self._shift.attempts)

    def _collect(self, seconds: float) -> None:
        self._context.woken.wait(seconds)
        self._context.woken.clear()
        for future in [future for future in self._busy if future.done()]:
            job = self._busy.pop(future)
            self._warm.append(job.claim.model)
            self.ends[future.result()] += 1


@contextmanager
def _beating(context: WorkerContext, at_work: Callable[[], list[JobRun]], seconds: float) -> Iterator[None]:
    """Renew the claims of all running jobs in a separate thread, and set the result on each job."""
    leaving = threading.Event()

    def beat() -> None:
        while not leaving.wait(seconds):
            try:
                _renew(context, at_work())
                _give_sign(context)
            except SQLAlchemyError:
                _log.warning("claims could not be renewed; trying again", exc_info=True)

    with suppress(SQLAlchemyError):  # the first heartbeat records it again
        _give_sign(context)
    heart = threading.Thread(target=copy_context().run, args=(beat,), name="job-heartbeat", daemon=True)
    heart.start()
    try:
        yield
    finally:
        leaving.set()
        heart.join()


def _give_sign(context: WorkerContext) -> None:
    """Record that this worker claims jobs, unless it is closing."""
    if not (context.closing.is_set() or context.ending.is_set()):
        with transaction(context.engine, "worker.sign") as session:
            slots.give(session, context.generators.served.names)


def _renew(context: WorkerContext, held: list[JobRun]) -> None:
    if not held:
        return
    began = time.monotonic()
    renewed = claiming.renew(context.engine, [(job.claim, job.fraction) for job in held])
    running = _count_running(context)
    for job in held:
        if job.claim.id in renewed:
            job.renewed = began
            job.ran_beside.append(running[job.here or context.generators.served.lane(job.claim.lane)])
            job.is_cancelled |= renewed[job.claim.id]
        else:
            job.is_lost = True


def _count_running(context: WorkerContext) -> Counter[str | None]:
    with reading(context.engine) as session:
        # guard claims.beside: jobs of one provider count as load of another, whose limit is then lowered
        return claims.running_by_lane(session, context.generators.default)
