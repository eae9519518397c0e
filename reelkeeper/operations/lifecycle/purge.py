"""Purge bytes: the second phase of a deletion, and the only code that deletes bytes.

    retired --claim, in one UPDATE that checks everything again--> deleting --HEAD, check again, delete--> gone

A claim belongs to the lease that it was made under. It is committed before the first delete, and no other run
touches the blob until the claim has timed out: by then, the bucket accepts no request of the claimer any more.
`settle_claims` settles claims of killed runs.

Keys of ours are written once, so a late delete only hits doomed bytes. The service may overwrite its own keys between
the HEAD and the delete: each gets a HEAD right before its delete, which is sent once, and which the server refuses
30 s after it was signed, by its own clock throughout. docs/safety.md states the window that is left.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from reelkeeper.adapters.s3.deletes import was_refused
from reelkeeper.errors import LeaseLost, StorageError
from reelkeeper.failpoints import effect
from reelkeeper.model import Grace, Outcome, StoredObject
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.freeze import freeze, require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle.outcomes import BY_FATE, Fate
from reelkeeper.operations.videos.doubts import look_into
from reelkeeper.operations.videos.overwrites import take_uploads
from reelkeeper.store import Session
from reelkeeper.store.billing import quotas
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import purges
from reelkeeper.store.lifecycle.plans import record_outcomes
from reelkeeper.store.lifecycle.purges import Doomed, claimed_by
from reelkeeper.store.removals import takedowns
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.conditions import Condition

LOOK_SECONDS = 30  # nothing is deleted on an older HEAD
KEYS_AT_ONCE = 1_000  # S3 API: the maximum of one DeleteObjects request
BATCHES_AT_ONCE = 4  # while the bucket deletes one batch, the store claims and settles others
_SIGNED_AT_ONCE = 100  # deletes at keys of the service's: with 8 threads and 100 ms a request, done in 3 s
_PARALLEL = 8
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # on Linux, also counts while the machine sleeps


@dataclass(slots=True)
class _Batch:
    """The blobs that a call of `purge` has claimed, and the outcome of each so far. Shared by its threads."""

    workspace: Workspace
    lease: Lease
    doomed: list[Doomed]
    is_takedown: bool = False  # not stopped by a freeze
    fates: dict[int, tuple[Fate, str]] = field(default_factory=dict)
    found: dict[int, StoredObject] = field(default_factory=dict)  # of those overwritten
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, blob: Doomed, fate: Fate, why: str = "") -> None:
        with self.lock:
            self.fates[blob.blob_id] = fate, why

    def by_fate(self) -> dict[Fate, list[tuple[Doomed, str]]]:
        """Group the blobs by outcome, each with the reason."""
        found: dict[Fate, list[tuple[Doomed, str]]] = {fate: [] for fate in Fate}
        for blob in self.doomed:
            fate, why = self.fates.get(blob.blob_id, (Fate.UNTOUCHED, ""))
            found[fate].append((blob, why))
        return found


class _LookedTooLongAgo(Exception):  # noqa: N818  a signal between two functions below, no error
    pass


def begin(workspace: Workspace, lease: Lease) -> None:
    """Announce a run of purges to every other copy of the store, once. Raises StoreBehind where this is one."""
    epochs.begin(workspace, "purge", lease, workspace.bucket.delete)


def purge(
    workspace: Workspace, plan_id: str, blob_ids: Sequence[int], *, lease: Lease, run_id: str, grace: Grace
) -> list[Outcome]:
    """Delete the bytes of those of `blob_ids` that may still be deleted; the others are skipped, with the reason.

    A batch is at most 1,000 blobs, as in DeleteObjects. A blob at a key of ours whose object is not as recorded,
    or whose video's present bytes are not stored, goes back to `retired`, and the deployment is frozen. An object that
    the service has stored instead becomes its video's present bytes. Raises StoreBehind, Frozen or LeaseLost before any
    change, or later with everything done recorded and the rest unchanged.
    """
    begin(workspace, lease)
    doomed = _claim(workspace, plan_id, blob_ids, lease=lease, run_id=run_id, grace=grace)
    claimed = {blob.blob_id for blob in doomed}
    why = "purged, viewed, held or restored since the plan, or claimed by another run"
    skipped = [Outcome("", "skipped", why, blob_id=blob_id) for blob_id in blob_ids if blob_id not in claimed]
    return _carry_out(_Batch(workspace, lease, doomed), plan_id, skipped, run_id=run_id, grace=grace)


def purge_taken_down(
    workspace: Workspace, blob_ids: Sequence[int], *, lease: Lease, run_id: str, grace: Grace
) -> list[Outcome]:
    """Delete the bytes of those of `blob_ids` that were taken down, despite any grace, freeze or ordinary hold.

    Otherwise it works, and raises, as `purge` does. Blobs that another run has claimed, or a legal hold keeps, stay.
    """
    epochs.begin(workspace, "takedown", lease, workspace.bucket.delete)
    with transaction(workspace.engine, "takedown.claim") as session:
        # guard takedown.claim_permission: a takedown without its lease claims blobs that another run works on
        require_permission(session, lease, despite_freeze=True)
        takedowns.claim(session, blob_ids, lease, run_id=run_id)
        doomed = purges.claimed(session, blob_ids, lease)
    return _carry_out(_Batch(workspace, lease, doomed, is_takedown=True), None, [], run_id=run_id, grace=grace)


def delete_loose(workspace: Workspace, keys: Sequence[str], *, lease: Lease) -> dict[str, str]:
    """Delete an erased user's objects that belong to no video; return the reason for each one left, by key.

    They have no rows, so none is claimed: all that is stored at these keys is the user's. Raises Frozen or
    LeaseLost before each further delete request.
    """
    if keys:
        epochs.begin(workspace, "erase", lease, workspace.bucket.delete)

    def last_look() -> None:
        # guard erase.last_behind: a copy of the store erases what the original keeps
        epochs.require_current(workspace)
        with transaction(workspace.engine, "erase.last_look") as session:
            # guard erase.last_permission: an erasure deletes more objects during a freeze, or without its lease
            require_permission(session, lease)

    with effect("erase.delete"):
        return workspace.bucket.delete(keys, last_look=last_look) if keys else {}


def settle_claims(
    workspace: Workspace,
    *,
    run_id: str,
    grace: Grace,
    lease: Lease | None = None,
    video_ids: Sequence[str] | None = None,
) -> int:
    """Settle the blobs whose claims have timed out, of all videos or of some; return how many.

    One without an object is purged; one whose object is as recorded is retired again, for the next plan to decide; one
    that the service has overwritten is an upload; another object at a key of ours is a doubt, and freezes the
    deployment. With `lease`, raises Frozen or LeaseLost; a restore, which works while changes are frozen, has none.
    """
    settled, doubts = 0, list[str]()
    while True:
        with reading(workspace.engine) as session:
            rows = purges.timed_out(session, video_ids, KEYS_AT_ONCE)
        if not rows:
            break
        stored = workspace.bucket.stored([row.key for row in rows])
        missing = [row.blob_id for row in rows if stored[row.key] is None]
        left = _versions(workspace.bucket.versions_left() if missing else "")
        other = {row.blob_id: found for row in rows if (found := stored[row.key]) and not row.recorded.matches(found)}
        ours = {row.key: other[row.blob_id] for row in rows if row.blob_id in other and row.recorded.is_ours}
        doubts += sorted(look_into(workspace, ours, run_id=run_id, lease=lease))
        with transaction(workspace.engine, "purge.settle_claims") as session:
            if lease:
                # guard purge.settle_permission: claims of killed runs are settled during a freeze, or without the lease
                require_permission(session, lease)
            else:
                deployment.lock(session)
            still = conditions.claim_timed_out(now(session))
            gone = _mark_gone(session, missing, still, run_id)
            purges.record_settled(session, [blob_id for blob_id, _ in gone])
            back = purges.take_back(session, [row.blob_id for row in rows if row.blob_id not in missing], still)
            taken = [(blob_id, found) for blob_id, found in other.items() if found.key not in ours]
            take_uploads(session, taken, run_id=run_id, grace=grace)
            keys = {row.blob_id: {"key": row.key} for row in rows}
            record(
                session,
                [Event("purge", run_id, video_id, blob_id, None, keys[blob_id] | left) for blob_id, video_id in gone],
            )
        settled += len(gone) + back
        if not gone and not back:
            break  # another run has settled them at the same time
    if doubts:
        # guard purge.settled_doubt_freezes: a killed run's claim has other bytes at a write-once key; purges continue
        freeze(workspace.engine, by=run_id, reason=f"blobs in doubt: {len(doubts)}, first {doubts[0]}: not as recorded")
    return settled


def _carry_out(
    batch: _Batch, plan_id: str | None, skipped: list[Outcome], *, run_id: str, grace: Grace
) -> list[Outcome]:
    """Delete the batch's blobs, and record the outcomes."""
    try:
        _delete_ours(batch, [blob for blob in batch.doomed if blob.recorded.is_ours])
        _delete_the_services(batch, [blob for blob in batch.doomed if not blob.recorded.is_ours])
        _look_into_doubts(batch, run_id)
    finally:
        outcomes = _settle(batch, plan_id, skipped, run_id=run_id, grace=grace)
    if doubtful := batch.by_fate()[Fate.DOUBTFUL]:
        blob, why = doubtful[0]
        # guard purge.doubt_freezes: other bytes are found at a write-once key, and purges continue
        freeze(batch.workspace.engine, by=run_id, reason=f"blobs in doubt: {len(doubtful)}, first {blob.key}: {why}")
    return outcomes


def _claim(
    workspace: Workspace, plan_id: str, blob_ids: Sequence[int], *, lease: Lease, run_id: str, grace: Grace
) -> list[Doomed]:
    with transaction(workspace.engine, "purge.claim") as session:
        # guard purge.claim_permission: a run claims blobs during a freeze, or without its lease
        require_permission(session, lease)
        purges.claim(
            session, plan_id, blob_ids, lease, run_id=run_id, grace=grace, service_keys=workspace.keeps_contract
        )
        return purges.claimed(session, blob_ids, lease)


def _delete_ours(batch: _Batch, doomed: Sequence[Doomed]) -> None:
    """Delete objects at write-once keys: HEAD all of them, then delete all by one request."""
    if not doomed:
        return None
    looked_at = time.clock_gettime(_CLOCK)
    keys = [blob.key for blob in doomed] + [blob.successor_key for blob in doomed if blob.successor_key]
    stored = batch.workspace.bucket.stored(keys)
    for blob in doomed:
        batch.note(blob, *_judge(blob, stored[blob.key], stored.get(blob.successor_key or "")))
    going = [blob for blob in doomed if batch.fates[blob.blob_id][0] == Fate.UNTOUCHED]
    sent = threading.Event()

    def last_look() -> None:
        # guard purge.last_look: a run that was suspended after its HEADs deletes settled blobs, or during a freeze
        _require_claim(batch, going)
        # guard purge.old_look: bytes are deleted on a HEAD older than 30 s
        if time.clock_gettime(_CLOCK) - looked_at > LOOK_SECONDS:
            raise _LookedTooLongAgo
        sent.set()
        for blob in going:
            batch.note(blob, Fate.SENT)

    try:
        with effect("purge.delete"):
            failures = batch.workspace.bucket.delete([blob.key for blob in going], last_look=last_look) if going else {}
    except _LookedTooLongAgo:
        if not sent.is_set() and len(going) > 1:  # too many for 30 s of HEADs: each half takes half as long
            middle = len(going) // 2
            _delete_ours(batch, going[:middle])
            return _delete_ours(batch, going[middle:])
        failures = dict.fromkeys(
            (blob.key for blob in going), f"last checked over {LOOK_SECONDS} s ago: not deleted without a new check"
        )
    for blob in going:
        why = failures.get(blob.key, "")
        # guard purge.unanswered: a blob that the bucket may still delete is restored, and then deleted
        batch.note(blob, Fate.DELETED if not why else Fate.REFUSED if was_refused(why) else Fate.FAILED, why)
    return None


def _delete_the_services(batch: _Batch, doomed: Sequence[Doomed]) -> None:
    """Delete objects at the service's keys: sign by the bucket's clock, check permission, HEAD and delete each."""
    for start in range(0, len(doomed), _SIGNED_AT_ONCE):
        some = doomed[start : start + _SIGNED_AT_ONCE]
        signed_at = time.clock_gettime(_CLOCK)
        try:
            signed = batch.workspace.bucket.sign_deletes([blob.key for blob in some], LOOK_SECONDS)
        except StorageError as error:
            for blob in some:
                batch.note(blob, Fate.KEPT, str(error))
            continue
        # guard purge.service_last_look: objects at the service's keys are deleted without a claim, or during a freeze
        _require_claim(batch, some)
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(partial(_delete_one, batch, signed_at, signed), some))


def _delete_one(batch: _Batch, signed_at: float, signed: Mapping[str, str], blob: Doomed) -> None:
    bucket = batch.workspace.bucket
    try:
        successor = bucket.head(blob.successor_key) if blob.successor_key else None
        found = bucket.head(blob.key)
    except StorageError as error:
        return batch.note(blob, Fate.KEPT, str(error))
    fate, why = _judge(blob, found, successor)
    if fate in (Fate.OVERWRITTEN, Fate.EMPTIED) and found:
        batch.found[blob.blob_id] = found
    # guard purge.service_old_look: a late delete at the service's key hits a new upload
    if fate != Fate.UNTOUCHED or time.clock_gettime(_CLOCK) - signed_at > LOOK_SECONDS:
        return batch.note(blob, fate, why)
    batch.note(blob, Fate.SENT)
    try:
        with effect("purge.delete_signed"):
            refusal = bucket.delete_signed(blob.key, signed[blob.key])
    except StorageError as error:  # its answer may be lost; not sent again, as the service may have stored a new object
        try:
            is_gone = bucket.head(blob.key) is None
        except StorageError:
            is_gone = False
        return batch.note(blob, *((Fate.DELETED, "") if is_gone else (Fate.FAILED, str(error))))
    return batch.note(blob, Fate.REFUSED if refusal else Fate.DELETED, refusal or "")


def _judge(blob: Doomed, found: StoredObject | None, successor: StoredObject | None) -> tuple[Fate, str]:
    """Compare the stored object with the recorded one: UNTOUCHED means that the bytes may be deleted."""
    # guard purge.successor: a video's old bytes are deleted while its present ones are not stored
    if blob.successor_key and not (successor and blob.successor.matches(successor)):
        why = f"the video's current bytes, {blob.successor_key}, are not stored as recorded"
        return (Fate.DOUBTFUL, why) if blob.successor.is_ours else (Fate.KEPT, f"{why}: run sync_catalog")
    if found is None:
        return Fate.ALREADY_GONE, ""
    # guard purge.as_recorded: bytes are deleted that are not the retired ones
    if blob.recorded.matches(found):
        return Fate.UNTOUCHED, ""
    if not blob.recorded.is_ours:
        return (Fate.OVERWRITTEN if found.size_bytes else Fate.EMPTIED), ""
    why = (
        f"stored {found.size_bytes} bytes, ETag {found.etag}; recorded {blob.recorded.size_bytes}, {blob.recorded.etag}"
    )
    return Fate.DOUBTFUL, why


def _look_into_doubts(batch: _Batch, run_id: str) -> None:
    """Note the doubts. Blobs whose objects have the recorded bytes, but another ETag, are left to the next run."""
    doubtful = [blob for blob, _ in batch.by_fate()[Fate.DOUBTFUL]]
    stored = batch.workspace.bucket.stored([key for blob in doubtful for key in (blob.key, blob.successor_key) if key])
    in_doubt = look_into(batch.workspace, stored, run_id=run_id)
    for blob in doubtful:
        if not in_doubt & {blob.key, blob.successor_key}:
            batch.note(blob, Fate.KEPT, "its bytes are the recorded ones, and their ETag is known now")


def _require_claim(batch: _Batch, doomed: Sequence[Doomed]) -> None:
    """Raise StoreBehind, Frozen or LeaseLost unless all of `doomed` may still be deleted by this run."""
    # guard purge.last_behind: a store goes on purging after another copy of it has restored or held a video
    epochs.require_current(batch.workspace)
    with transaction(batch.workspace.engine, "purge.last_look") as session:
        # guard purge.last_permission: a freeze or a lost lease between claim and delete does not stop the delete
        require_permission(session, batch.lease, despite_freeze=batch.is_takedown)
        # guard purge.last_claim: a run that was suspended deletes blobs that another has settled or restored
        if purges.count_claimed(session, [blob.blob_id for blob in doomed], batch.lease) != len(doomed):
            raise LeaseLost("another run has taken over the objects that this run had claimed: nothing more is deleted")


def _settle(batch: _Batch, plan_id: str | None, skipped: list[Outcome], *, run_id: str, grace: Grace) -> list[Outcome]:
    """Record the batch's outcomes, and retire again the blobs for which no delete was sent."""
    found = batch.by_fate()
    gone = found[Fate.DELETED] + found[Fate.ALREADY_GONE]
    doubtful, overwritten = found[Fate.DOUBTFUL], found[Fate.OVERWRITTEN] + found[Fate.EMPTIED]
    back = found[Fate.UNTOUCHED] + found[Fate.KEPT] + found[Fate.EMPTIED]
    left = batch.workspace.bucket.versions_left() if gone else ""
    outcomes = [
        _outcome(blob, action, why or reason, left)
        for fate, (action, reason) in BY_FATE.items()
        for blob, why in found[fate]
    ]
    is_claimed = claimed_by(batch.lease)
    with transaction(batch.workspace.engine, "purge.settle") as session:
        deployment.lock(session)
        settled = dict(_mark_gone(session, [blob.blob_id for blob, _ in gone], is_claimed, run_id))
        # What the bucket refuses to delete waits behind the rest: else a lock on a run's share keeps all others, too.
        for some, anew in ((back, None), (doubtful, grace), (found[Fate.REFUSED], Grace(0, 0))):
            purges.take_back(session, [blob.blob_id for blob, _ in some], is_claimed, anew)
        if overwritten:
            uploads = [(blob.blob_id, batch.found[blob.blob_id]) for blob, _ in overwritten]
            take_uploads(session, uploads, run_id=run_id, grace=grace, claim_token=batch.lease.token)
        if plan_id:
            record_outcomes(session, plan_id, skipped + outcomes)
        done = [blob for blob, _ in gone if blob.blob_id in settled]
        details = [{"key": blob.key, "bytes": blob.recorded.size_bytes} | _versions(left) for blob in done]
        about = [(blob.video_id, blob.blob_id, blob.user_id) for blob in done]
        record(session, [Event("purge", run_id, *ids, detail) for ids, detail in zip(about, details, strict=True)])
    return skipped + outcomes


def _mark_gone(
    session: Session, blob_ids: Sequence[int], still: Condition, run_id: str
) -> list[tuple[int, str | None]]:
    """Record that bytes are gone, and free the quota that they used. The caller holds the deployment row."""
    counted = purges.counted_until_purged(session, blob_ids)
    if not counted:
        return purges.mark_gone(session, blob_ids, still, run_id)
    # guard delete.freed: videos that a user deleted count towards the quota for ever
    with quotas.counted(session, counted):
        return purges.mark_gone(session, blob_ids, still, run_id)


def _versions(left: str) -> dict[str, str]:
    # guard purge.versions: a certificate states when bytes were deleted that stay stored as versions
    return {"versions": left} if left else {}


def _outcome(blob: Doomed, action: str, reason: str, left: str) -> Outcome:
    """Describe what became of a blob. `left`: why its bytes stay stored although they were deleted, if they do."""
    size = blob.recorded.size_bytes
    if action == "purged" and left:
        return Outcome(blob.video_id or blob.key, action, left, size, size, blob.blob_id)
    return Outcome(blob.video_id or blob.key, action, reason, size, 0 if action == "purged" else size, blob.blob_id)
