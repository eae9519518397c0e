"""Follow jobs for all event streams together: one query finds the changed jobs, and each is read once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from time import monotonic
from typing import Final

from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError

from reelkeeper.errors import NotFound
from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.operations import Engine
from reelkeeper.operations.jobs.follow import Job, follow, marks

LOOK_SECONDS = 1.0  # between two polls
_PLACES: Final = 20  # waiting jobs whose queue position is read at each poll, in turn
_PAUSE: Final = 3.0  # minimum pause, in durations of the last poll: polling takes at most a quarter of a core
_SIGN_OF_LIFE_SECONDS: Final = 15.0  # without an event until a heartbeat, so that no proxy closes the connection
_MAX_SECONDS: Final = 3_600.0  # of one stream; an EventSource reconnects by itself
_log = logging.getLogger(__name__)


class Following:
    """The jobs that event streams listen to, and a task that polls them while there are any."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._seen: dict[str, Job] = {}  # the least recently read job first
        self._marks: dict[str, object] = {}
        self._due: set[str] = set()  # to be read even if unchanged
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def stop(self) -> None:
        """End all streams; clients then reconnect to another server."""
        self._is_over = True
        for listeners in self._listeners.values():
            _wake(listeners)

    async def changes(self, first: Job) -> AsyncIterator[Job | None]:
        """Yield the job and, until it has ended, each change; None is a heartbeat."""
        sent, began, changed = first, monotonic(), asyncio.Event()
        listeners = self._listeners.setdefault(first.job_id, set())
        listeners.add(changed)
        self._due.add(first.job_id)  # it may have changed since `first` was read
        try:
            yield first
            while sent.state in IN_FLIGHT and not self._is_over and monotonic() - began < _MAX_SECONDS:
                self._look_on()
                try:
                    async with asyncio.timeout(_SIGN_OF_LIFE_SECONDS):
                        await changed.wait()
                except TimeoutError:
                    yield None
                    continue
                changed.clear()
                seen = self._seen.get(first.job_id, sent)
                if _lasting(seen) != _lasting(sent):
                    sent = seen
                    yield seen
        finally:
            listeners.discard(changed)
            if not listeners and self._listeners.get(first.job_id) is listeners:
                del self._listeners[first.job_id]
                self._seen.pop(first.job_id, None)
                self._marks.pop(first.job_id, None)
                self._due.discard(first.job_id)

    def _look_on(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._listeners and not self._is_over:
            began = monotonic()
            queued = (job_id for job_id, follower in self._seen.items() if follower.state == JobState.QUEUED)
            due, self._due = self._due, set()
            before = {job_id: self._marks.get(job_id) for job_id in self._listeners}
            try:
                found, marked = await run_sync(self._look, due.union(islice(queued, _PLACES)), before)
            except SQLAlchemyError as error:
                self._due |= due & self._listeners.keys()
                _log.warning("the followed jobs could not be read: %s", type(error).__name__)
            else:
                for follower in found:
                    self._note(follower)
                self._marks.update((job_id, mark) for job_id, mark in marked.items() if job_id in self._listeners)
            await asyncio.sleep(max(LOOK_SECONDS, _PAUSE * (monotonic() - began)))

    def _look(self, due: set[str], before: dict[str, object]) -> tuple[list[Job], dict[str, object]]:
        """Read the `due` jobs and those that have changed since the marks `before`."""
        marked = marks(self._engine, list(before))
        changed = {job_id for job_id, mark in marked.items() if mark != before[job_id]}
        found = []
        for job_id in changed | due:
            try:
                found.append(follow(self._engine, job_id))
            except NotFound:  # pruned meanwhile
                continue
        return found, marked

    def _note(self, follower: Job) -> None:
        """Store a job's state, and wake its listeners."""
        if follower.job_id in self._listeners:
            self._seen.pop(follower.job_id, None)
            self._seen[follower.job_id] = follower
            _wake(self._listeners[follower.job_id])


def _wake(listeners: Iterable[asyncio.Event]) -> None:
    for changed in listeners:
        changed.set()


def _lasting(follower: Job) -> Job:
    """Leave out the estimates, which change every second."""
    return follower.model_copy(update={"wait_seconds": None, "finish_seconds": None})
