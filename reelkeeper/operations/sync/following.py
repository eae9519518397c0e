"""Pull R2's events in a loop, `follow_bucket`, and check them against the listing.

One worker follows at a time, by a lease; the others wait until it leaves. A message is acknowledged only after its
changes are committed. Failures are retried after a pause that grows to a minute.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from reelkeeper.adapters.cloudflare import queues
from reelkeeper.adapters.cloudflare.queues import Queue
from reelkeeper.errors import LeaseLost
from reelkeeper.model.buckets import Message
from reelkeeper.operations.core.freeze import require_permission, why_frozen
from reelkeeper.operations.core.lease import HeldLease, alone
from reelkeeper.operations.core.overrides import followed
from reelkeeper.operations.core.workspace import Workspace, flush_operations, open_workspace
from reelkeeper.operations.sync.events import Batch, handle
from reelkeeper.operations.sync.survey import Survey, confirm_missing
from reelkeeper.rules.sync.events import SETTLING, gap_window
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.sync import noted_counts, scans

LEASE: Final = "flow/follow_bucket"  # of the worker that follows, always held: no user is renamed while BATCH is held
BATCH: Final = "batch/follow_bucket"
PAUSE_SECONDS: Final = 10.0  # between two pulls from an empty queue
STANDBY_SECONDS: Final = 15.0  # between two attempts to follow, while another worker follows
WRITE_SECONDS: Final = 10.0  # at least, between two records of the progress
SETTLE_SECONDS: Final = 60.0  # at most, that a listing waits for the events of missing objects
FRESH_SECONDS: Final = 300.0  # since the last record: a worker follows
_FLUSH_SECONDS: Final = 300.0
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 2.0, 60.0
_RECOUNT_SECONDS: Final = 3_600.0
_RUNS: Final = "follow_bucket-"  # and the day: its changes by events are one run in the audit record
_log = logging.getLogger(__name__)


def follow_bucket(settings: Settings, stop: threading.Event) -> None:
    """Follow the configured queue until `stop` is set; returns at once where none is configured."""
    queue = queues.connect(settings, sleep=stop.wait)
    if queue is None:
        return
    pause = _FIRST_PAUSE_SECONDS
    with closing(queue):
        while not stop.is_set():
            began = time.monotonic()
            try:
                with open_workspace(settings) as workspace:
                    follow(workspace, queue, stop)
            except LeaseLost as error:
                _log.debug("another worker follows the bucket: %s", error)
                stop.wait(STANDBY_SECONDS)
            except Exception as error:  # noqa: BLE001  the loop continues after any error
                pause = pause if time.monotonic() - began < 2 * _MAX_PAUSE_SECONDS else _FIRST_PAUSE_SECONDS
                _log.warning("following the bucket failed; trying again in %.0f s: %s", pause, error, exc_info=error)
                stop.wait(pause)
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)


def follow(workspace: Workspace, queue: Queue, stop: threading.Event, *, pause_seconds: float = PAUSE_SECONDS) -> None:
    """Handle the queue's messages, batch by batch, and poll every `pause_seconds` once it is empty.

    Raises LeaseLost where another worker follows, and errors that end all work, such as an unreachable store.
    """
    with alone(workspace.engine, LEASE) as held:
        follower = Follower(workspace, queue, held)
        while not stop.is_set():
            if not follower.turn():
                stop.wait(pause_seconds)
        follower.write()


class Follower:
    """The state of the worker that follows the bucket, between two turns."""

    def __init__(self, workspace: Workspace, queue: Queue, held: HeldLease) -> None:
        self._workspace, self._queue, self._held = workspace, queue, held
        self._state = _begin(workspace.engine)
        self._before = self._adopted_before()
        self._before_as_of = self._written = self._flushed = time.monotonic()
        self._waits_for = ""

    def turn(self) -> int:
        """Pull one batch and handle it; returns how many messages it had."""
        self._held.check()
        if not self._may_follow():
            self._write_if_due()
            return 0
        pulled = self._queue.pull()
        if pulled.messages:
            self._handle(pulled.messages)
        with reading(self._workspace.engine) as session:
            at = now(session).isoformat()
        self._state["backlog"] = pulled.backlog
        if not pulled.messages:
            self._state["caught_up_at"] = at
        self._write_if_due()
        return len(pulled.messages)

    @property
    def counts(self) -> dict[str, int]:
        """Count the messages and objects since events were first followed, by outcome."""
        return dict(self._state["counts"])

    def write(self) -> None:
        """Record the progress."""
        with transaction(self._workspace.engine, "events.write") as session:
            controls.write(session, scans.BUCKET_EVENTS, self._state)
        self._written = time.monotonic()

    def _handle(self, messages: Sequence[Message]) -> None:
        if time.monotonic() - self._before_as_of > _RECOUNT_SECONDS:
            self._before, self._before_as_of = self._adopted_before(), time.monotonic()
        engine = self._workspace.engine
        run_id = f"{_RUNS}{datetime.now(UTC):%Y-%m-%d}"
        batch = Batch(self._workspace, self._held.lease, run_id, followed(engine), self._before)
        # guard events.rename: a batch reads a user's rows before a rename moves them, and writes them under the old id
        with self._held.manager.in_turn(BATCH, self._held.check):
            with transaction(engine, "events.begin") as session:  # waits for a rename that has seen no batch
                require_permission(session, self._held.lease)
            # guard events.acknowledged: a message is acknowledged before its change is stored, and lost in a crash
            handled = handle(batch, messages, account_id=self._queue.account_id)
        self._queue.settle(handled.acks, handled.retries)
        counts = Counter(self._state["counts"])
        counts.update(batch.counts)
        self._state["counts"] = dict(+counts)

    def _adopted_before(self) -> Counter[str]:
        """Count the files, by video, that events adopted in 24 hours: objects of a day are judged together."""
        with reading(self._workspace.engine) as session:
            return Counter(noted_counts.adopted_files(session, _RUNS))

    def _may_follow(self) -> bool:
        """Check whether events may change anything now; else messages stay in the queue, and no attempt is counted."""
        with reading(self._workspace.engine) as session:
            # guard events.after_listing: objects are adopted one by one before a listing has judged them together
            waits = "" if scans.has_finished(session) else "the first listing: reelkeeper run sync_catalog --apply"
        waits = waits or why_frozen(self._workspace.engine) or ""
        if waits and waits != self._waits_for:
            _log.warning("the bucket's events are not followed yet; waiting for %s", waits)
        self._waits_for = waits
        return not waits

    def _write_if_due(self) -> None:
        at = time.monotonic()
        if at - self._written >= WRITE_SECONDS:
            self.write()
        if at - self._flushed >= _FLUSH_SECONDS:
            flush_operations(self._workspace.engine, self._workspace.bucket)
            self._flushed = at


class Followed(NamedTuple):
    """Position up to which the events were followed, as last recorded."""

    since: datetime  # the events of all objects stored since were handled, except for gaps
    caught_up_at: datetime | None  # when the queue was last seen empty
    backlog: int | None
    counts: dict[str, int]
    age_seconds: float  # of the record

    @property
    def is_fresh(self) -> bool:
        """Check whether a worker probably follows now."""
        return self.age_seconds < FRESH_SECONDS


def look(engine: Engine) -> Followed | None:
    """Read how far the events were followed; None where they never were."""
    with reading(engine) as session:
        kept, at = controls.kept(session, scans.BUCKET_EVENTS), now(session)
    if kept is None:
        return None
    state = kept.state
    caught_up_at = state.get("caught_up_at")
    return Followed(
        datetime.fromisoformat(state["since"]),
        datetime.fromisoformat(caught_up_at) if caught_up_at else None,
        state.get("backlog"),
        state.get("counts", {}),
        (at - kept.updated_at).total_seconds(),
    )


def let_settle(workspace: Workspace, found: Survey, *, seconds: float = SETTLE_SECONDS) -> None:
    """Wait for the events of objects that a listing misses: a deletion by the service is not a loss.

    Waits at most `seconds`, where events are followed at all, and then checks the missing objects again.
    """
    if not found.missing:
        return
    with reading(workspace.engine) as session:
        looked_at = now(session)
    ends, had_to_wait = time.monotonic() + seconds, False
    while (followed_now := look(workspace.engine)) and followed_now.is_fresh:
        had_to_wait = True
        caught_up_at = followed_now.caught_up_at
        if (caught_up_at and (caught_up_at - looked_at).total_seconds() > seconds / 2) or time.monotonic() >= ends:
            break
        time.sleep(min(2.0, seconds))
    if had_to_wait:
        confirm_missing(workspace, found)


def count_gaps(workspace: Workspace, found: Survey) -> int | None:
    """Count the differences that a listing found and events should have reported; None where none are followed.

    Called before the listing adopts. Objects stored in the last minutes, or before events were followed, are no gaps.
    """
    followed_now = look(workspace.engine)
    if followed_now is None or not followed_now.is_fresh or followed_now.caught_up_at is None:
        return None
    window = gap_window(followed_now.since, followed_now.caught_up_at, found.started_at)
    if window is None:
        return 0
    since, until = window
    with reading(workspace.engine) as session:
        created = noted_counts.count_stored_between(session, found.scan_id, since, until)
    overwritten = sum(since < stored.last_modified < until for _, stored in found.overwritten)
    return created + overwritten + len(found.missing)


def _begin(engine: Engine) -> dict[str, Any]:
    """Continue from the recorded state, unless the queue may have dropped messages since."""
    with reading(engine) as session:
        kept, at = controls.kept(session, scans.BUCKET_EVENTS), now(session)
    if kept and (at - kept.updated_at).total_seconds() < scans.RETAINED_SECONDS:
        return dict(kept.state)
    counts = kept.state.get("counts", {}) if kept else {}
    return {"since": (at + SETTLING).isoformat(), "caught_up_at": None, "backlog": None, "counts": counts}
