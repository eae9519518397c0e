"""Follow the bucket by R2's event notifications: for each batch of messages, look at the keys that they name.

The contents of a message are not trusted, so messages that come twice, late or out of order do no harm. The object at
each key is treated as in a listing: the same notes, decisions, limits and changes.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from reelkeeper.adapters.s3.keys import flaw
from reelkeeper.errors import GuardRefused
from reelkeeper.model.buckets import BucketEvent, Message
from reelkeeper.operations.core.isolation import each_apart
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.sync import adoption, orphans, sync
from reelkeeper.operations.sync.survey import Survey, compare, confirm_missing
from reelkeeper.rules.lifecycle.guard import enough_expected, listing_within
from reelkeeper.rules.policies import Policies
from reelkeeper.rules.sync.events import Unread, is_explained, read, retry_seconds
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.sync import noted, noted_counts, scans

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Batch:
    """One batch of messages. `before`: files by video that were adopted in the last 24 hours."""

    workspace: Workspace
    lease: Lease
    run_id: str
    policies: Policies
    before: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)  # messages and objects, by outcome


@dataclass(slots=True)
class Handled:
    """The lease ids of handled messages, and the seconds until each of the others is tried again."""

    acks: list[str] = field(default_factory=list)
    retries: dict[str, int] = field(default_factory=dict)


def handle(batch: Batch, messages: Sequence[Message], *, account_id: str | None) -> Handled:
    """Update the catalogue at the keys that `messages` name; return the answer to the queue.

    An unreadable or failing message does not stop the others. Raises Frozen, LeaseLost, and errors of an unreachable
    store: then no message is acknowledged, and all are delivered again.
    """
    handled, by_key = Handled(), defaultdict[str, list[tuple[Message, BucketEvent]]](list)
    batch.counts["messages"] += len(messages)
    for message in messages:
        event = read(message.body, account_id=account_id, bucket=batch.workspace.bucket.name)
        if isinstance(event, Unread):
            batch.counts[event.kind] += 1
            _log.warning("a message of the event queue was acknowledged and ignored: %s", event.why)
            handled.acks.append(message.lease_id)
        elif not _is_looked_at(batch, event.key):
            handled.acks.append(message.lease_id)
        else:
            by_key[event.key].append((message, event))
    events = {key: [event for _, event in pairs] for key, pairs in by_key.items()}
    broken = set[str]()

    def failed(keys: Sequence[str], error: Exception) -> None:
        _log.warning("events of %d keys, first %s, failed; trying again: %s", len(keys), keys[0], error, exc_info=error)
        broken.update(keys)

    each_apart(list(events), lambda keys: _follow(batch, {key: events[key] for key in keys}), failed)
    for key, pairs in by_key.items():
        for message, _ in pairs:
            if key in broken:
                batch.counts["retried"] += 1
                handled.retries[message.lease_id] = retry_seconds(message.attempts)
            else:
                handled.acks.append(message.lease_id)
    return handled


def _is_looked_at(batch: Batch, key: str) -> bool:
    """Check whether a key may hold a video: it must be under the prefix."""
    bucket = batch.workspace.bucket
    # guard events.prefix: objects outside the prefix become videos
    if not key.startswith(bucket.prefix) or bucket.is_hidden(key):
        batch.counts["elsewhere"] += 1
        return False
    if flaw(key):
        batch.counts["left_to_listing"] += 1  # which reports it, with the reason
        return False
    return True


def _follow(batch: Batch, events: Mapping[str, Sequence[BucketEvent]]) -> None:
    """Look at the keys whose rows are not up to date, and act on the objects there."""
    if not events:
        return
    with reading(batch.workspace.engine) as session:
        rows = scans.known_objects(session, list(events))
        started_at = now(session)
    keys = [
        key
        for key, key_events in events.items()
        if key not in rows or not all(is_explained(event, *rows[key][1:]) for event in key_events)
    ]
    batch.counts["explained"] += len(events) - len(keys)
    if not keys:
        return
    found = Survey(uuid4().hex, started_at)
    stored = batch.workspace.bucket.stored(keys)
    batch.counts["looked_at"] += len(keys)
    unexplained = compare(batch.workspace, [each for each in stored.values() if each], found, bytearray())
    if unexplained:
        adoption.note(batch.workspace, found.scan_id, unexplained)
        _adopt(batch, found)
    absent = [key for key in keys if stored[key] is None]
    deleted = [key for key in absent if any(event.is_deletion for event in events[key])]
    _forget(batch, [key for key in absent if key not in rows])
    _delete(batch, found, deleted)
    _mend(batch, found)


def _adopt(batch: Batch, found: Survey) -> None:
    adopting = batch.policies.adoption
    judged = adoption.judge(batch.workspace, found.scan_id, adopting, batch.before)
    with reading(batch.workspace.engine) as session:
        adopted, further = noted_counts.files_by_pattern(session, found.scan_id)
    new, back = orphans.adopt(batch.workspace, found, lease=batch.lease, run_id=batch.run_id)
    batch.before.update(adopted)
    batch.before.update({video_id: files for video_id, files in further.items() if video_id in batch.before})
    batch.counts["adopted"] += new
    batch.counts["taken_back"] += back
    if judged.refusal:
        batch.counts["left_to_listing"] += 1
        _log.error("patterns adopted nothing; the next listing decides: %s", judged.refusal)


def _forget(batch: Batch, keys: Sequence[str]) -> None:
    """Drop the notes of objects that are no longer there."""
    if keys:
        with transaction(batch.workspace.engine, "events.forget") as session:
            noted.forget(session, keys)


def _delete(batch: Batch, found: Survey, keys: Sequence[str]) -> None:
    """Record deletions by the service, after another HEAD for each object, and within the blast radius."""
    if not keys:
        return
    with reading(batch.workspace.engine) as session:
        gone = scans.stored_rows(session, keys, found.started_at)
    if not gone:
        return
    again = batch.workspace.bucket.stored(list(gone.values()))
    # guard events.asked_twice: an object that the service has stored again is marked as deleted
    blob_ids = [blob_id for blob_id, key in gone.items() if again[key] is None]
    if not blob_ids:
        return
    # guard events.radius: an emptied bucket empties the catalogue, without an alert
    if not _is_within(batch, found, len(blob_ids)):
        batch.counts["left_to_listing"] += len(blob_ids)
        return
    marked = sync.record_deletions(batch.workspace, blob_ids, lease=batch.lease, run_id=batch.run_id)
    found.missing = [blob_id for blob_id in blob_ids if blob_id not in marked]
    confirm_missing(batch.workspace, found)
    lost = sync.lose(batch.workspace, found, lease=batch.lease, run_id=batch.run_id) if found.missing else 0
    batch.counts["deleted"] += len(marked)
    batch.counts["lost"] += lost
    if lost:
        _log.error("the service deleted %d held videos, which are lost: reelkeeper audit --event lose", lost)


def _is_within(batch: Batch, found: Survey, deleted: int) -> bool:
    """Check the service's deletions of 24 hours like a listing that misses all of these objects."""
    limits = batch.policies.limits
    with reading(batch.workspace.engine) as session:
        before = scans.count_deleted(session)
        expected = scans.count_expected(session, found.started_at, most=enough_expected(limits, deleted, before))
    try:
        listing_within(limits, expected - deleted, expected + before)
    except GuardRefused as error:
        _log.error("%d deletions, after %d in 24 hours, are left to the next listing: %s", deleted, before, error)
        return False
    return True


def _mend(batch: Batch, found: Survey) -> None:
    """Record uploads and objects that came back; doubtful ones are left to the listing, which reports them."""
    in_doubt = len(found.doubtful) + len(found.claimed)
    batch.counts["left_to_listing"] += in_doubt
    found.doubtful, found.claimed = [], []
    changed = len(found.overwritten), len(found.reappeared) + len(found.found)
    if any(changed):
        grace = batch.policies.lifecycle.grace
        sync.mend(batch.workspace, found, lease=batch.lease, run_id=batch.run_id, grace=grace)
        batch.counts["overwritten"] += changed[0]
        if found.emptied:
            _log.error("the service has stored 0 bytes over videos, which are lost: %s", ", ".join(found.emptied))
        batch.counts["back"] += changed[1]
