"""Take a video down: stop serving it, delete its bytes at once, and never publish them again.

    mark (commit) --> read bytes without SHA-256 --> block --> delete, by the purge --> certificate, from the audit
            '--> vendors are asked for their copies

If it is killed, a repetition continues. No grace, freeze, view or ordinary hold stops it: only a legal hold keeps
bytes, and those are not served either.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from reelkeeper.adapters.s3.keys import names_beside
from reelkeeper.errors import DiskFull, NotFound, StorageError
from reelkeeper.failpoints import effect
from reelkeeper.model import BlobState, Grace
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle.purge import purge_taken_down, settle_claims
from reelkeeper.operations.removals import at_vendors
from reelkeeper.operations.removals.at_vendors import AtVendor
from reelkeeper.operations.videos import in_place, intents
from reelkeeper.operations.videos.overwrites import take_uploads
from reelkeeper.settings import Settings
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import quotas
from reelkeeper.store.core import audit, deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import doubts
from reelkeeper.store.removals import at_vendors as vendor_erasures
from reelkeeper.store.removals import takedowns
from reelkeeper.store.removals.takedowns import Target
from reelkeeper.store.videos import cache
from reelkeeper.store.videos.videos import owners_of

MAX_VIDEOS: Final = 500  # with the same bytes, unless a person raises it: the blast radius' limit of one run
_WAIT_SECONDS: Final = 20.0  # for another process that works on the video
_BATCH: Final = 1_000
_BUSY: Final = "another run is at work on its video: repeat the takedown in a minute"


class TakedownOrder(NamedTuple):
    """Who orders a takedown, and why. `run_id` is that of the command or request."""

    by: str
    reason: str
    run_id: str


class Foreseen(NamedTuple):
    """What a takedown of one video would delete now, as the catalogue knows it."""

    video_id: str
    objects: int
    size_bytes: int


class Removed(NamedTuple):
    """An object of a video that was taken down. `purged_at` is None while it is stored; `why` is the reason."""

    video_id: str
    key: str
    size_bytes: int
    sha256: str | None
    purged_at: datetime | None
    event: int | None  # the number of its deletion in the audit record
    why: str


class Certificate(NamedTuple):
    """The record of a takedown: its objects, its time, its author and the reason, from the audit record.

    `vendors`: what became of the copies of those who made the videos.
    `files`: the service's own beside the videos, such as thumbnails, which the last listing saw, and which stay.
    `others_kept`: how many others have the same bytes, and stay, because they are more than this order allows.
    """

    video_id: str
    video_ids: tuple[str, ...]
    at: datetime
    by: str
    reason: str
    event: int  # the number of the takedown in the audit record
    objects: tuple[Removed, ...]
    vendors: tuple[AtVendor, ...]
    files: tuple[str, ...]
    others_kept: int = 0

    @property
    def left(self) -> tuple[Removed, ...]:
        """List the objects that are still stored."""
        return tuple(item for item in self.objects if item.purged_at is None)


def take_down(
    workspace: Workspace,
    video_id: str,
    order: TakedownOrder,
    *,
    scratch: Path,
    same_bytes: bool = False,
    max_videos: int = MAX_VIDEOS,
) -> Certificate:
    """Take a video down and, with `same_bytes`, all other videos that store the same bytes.

    Where more than `max_videos` others have its bytes, all of them stay, and the certificate counts them. Safe to
    repeat, which deletes the rest. Raises StoreBehind before any change, and NotFound for a video that is not in the
    catalogue.
    """
    # guard takedown.behind: a copy of the store takes down what the original has live
    epochs.require_current(workspace)
    kept = _take_down_all(workspace, [video_id], video_id, order, scratch)
    others: Sequence[str] = ()
    if same_bytes:
        with reading(workspace.engine) as session:
            others = takedowns.videos_with_same_bytes(session, video_id)
    # guard takedown.others: a takedown deletes more videos with the same bytes than its order allows
    if len(others) > max_videos:
        return certificate(workspace.engine, video_id, kept)._replace(others_kept=len(others))
    kept |= _take_down_all(workspace, others, video_id, order, scratch)
    return certificate(workspace.engine, video_id, kept)


def foresee(engine: Engine, video_id: str) -> Foreseen:
    """Say what a takedown of this video would delete. Raises NotFound for one that is not in the catalogue."""
    with reading(engine) as session:
        if not owners_of(session, [video_id]):
            raise NotFound(f"no video {video_id!r} in the catalogue")
        stored = [item.size_bytes for item in takedowns.targets(session, [video_id]) if item.state != BlobState.GONE]
    return Foreseen(video_id, len(stored), sum(stored))


def certificate(engine: Engine, video_id: str, kept: Mapping[int, str] | None = None) -> Certificate:
    """Read from the audit record what was taken down with a video. Raises NotFound where it was not taken down.

    `kept` has the reasons of blobs that could not be deleted just now.
    """
    with reading(engine) as session:
        orders = list(audit.events(session, event="takedown", video_id=video_id))
        if not orders:
            raise NotFound(f"video {video_id!r} was never taken down")
        begun = orders[-1]  # the first; the same bytes stored again since are down for the same reason
        detail = begun.event.detail
        since = audit.events(session, event="takedown", since=begun.at)
        # an erased user's have no words any more
        with_it = {item.event.video_id for item in since if item.event.detail.get("because_of") == video_id}
        video_ids = (video_id, *sorted(other for other in with_it - {video_id} if other))
        objects = tuple(item for each in video_ids for item in _objects(session, each, kept or {}))
        vendors = at_vendors.of_videos(session, video_ids)
        stems = {item.key.rpartition(".")[0] for item in objects}
        noted = takedowns.files_noted(session, stems)
    files = tuple(sorted(key for key in noted if names_beside(key) & stems))
    by, reason = detail["by"], detail["reason"]
    return Certificate(video_id, video_ids, begun.at, by, reason, begun.id, objects, vendors, files)


def ask_vendors(engine: Engine, found: Certificate, settings: Settings, run_id: str) -> Certificate:
    """Ask the vendors that made the videos to delete them; return the certificate with what they say by now."""
    at_vendors.catch_up(engine, settings, run_id)
    with reading(engine) as session:
        return found._replace(vendors=at_vendors.of_videos(session, found.video_ids))


def _take_down_all(
    workspace: Workspace, video_ids: Sequence[str], because_of: str, order: TakedownOrder, scratch: Path
) -> dict[int, str]:
    """Take these videos down; return the reason for each blob that is still stored."""
    kept: dict[int, str] = {}
    for start in range(0, len(video_ids), _BATCH):
        some = video_ids[start : start + _BATCH]
        take_unnoticed(workspace, some, order.run_id)
        _mark(workspace.engine, some, because_of, order)
        _block(workspace, some, scratch, order.run_id)
        kept |= delete_marked(workspace, some, order.run_id)
    return kept


def take_unnoticed(workspace: Workspace, video_ids: Sequence[str], run_id: str) -> None:
    """Record what the service has stored at the keys of these videos by now, so that it goes with them.

    Later, it would count as a new upload, and be served. A bucket that does not answer delays nothing: a repetition
    looks again.
    """
    with reading(workspace.engine) as session:
        keys = {target.blob_id: target.key for target in takedowns.targets(session, video_ids) if not target.is_ours}
    with suppress(StorageError):
        stored = workspace.bucket.stored(list(keys.values()))
        found = [(blob_id, there) for blob_id, key in keys.items() if (there := stored[key])]
        grace = workspace.in_force.policies.lifecycle.grace
        with transaction(workspace.engine, "takedown.take_unnoticed") as session:
            deployment.lock(session)
            # guard takedown.unnoticed: the video that the service stored before a takedown goes live by the takedown
            take_uploads(session, found, run_id=run_id, grace=grace)


def _mark(engine: Engine, video_ids: Sequence[str], because_of: str, order: TakedownOrder) -> None:
    """Stop serving these videos."""
    with transaction(engine, "takedown.mark") as session:
        deployment.lock(session)
        known = takedowns.lock_videos(session, video_ids)
        # guard takedown.rest: another of the same bytes, whose user is erased meanwhile, keeps the rest being served
        if because_of in video_ids and because_of not in known:
            raise NotFound(f"no video {because_of!r} in the catalogue")
        with quotas.counted(session, video_ids):
            takedowns.mark(session, video_ids, order.run_id)
        # guard takedown.cache: a repeated request gets a video that was taken down from the cache
        cache.drop(session, video_ids)
        # guard takedown.vendors: the vendor that made a video keeps it after a takedown
        vendor_erasures.ask_for_videos(session, video_ids)
        detail = {"by": order.by, "reason": order.reason, "because_of": because_of}
        record(
            session,
            [
                Event("takedown", order.run_id, video_id, video.blob_id, video.user_id, detail)
                for video_id, video in sorted(known.items())
                # guard takedown.while_erased: a video of a user who is being erased is taken down without a certificate
                if not video.is_down or not any(audit.events(session, event="takedown", video_id=video_id))
            ],
        )


def _block(workspace: Workspace, video_ids: Sequence[str], scratch: Path, run_id: str) -> None:
    """Record the SHA-256 of these bytes, reading them where it is missing, so that they are not published again."""
    with reading(workspace.engine) as session:
        found = takedowns.targets(session, video_ids)
    unread = [target for target in found if target.sha256 is None and target.state == BlobState.RETIRED]
    digests = {target.blob_id: sha256 for target in unread if (sha256 := _read(workspace, target, scratch))}
    hashed = [target._replace(sha256=target.sha256 or digests.get(target.blob_id)) for target in found]
    with transaction(workspace.engine, "takedown.block") as session:
        deployment.lock(session)
        takedowns.note_digests(session, digests)
        new = takedowns.block(session, hashed)
        append(
            session,
            [
                Event(
                    "block",
                    run_id,
                    target.video_id,
                    target.blob_id,
                    None,
                    {"key": target.key, "bytes": target.size_bytes, "sha256": target.sha256},
                )
                for target in hashed
                if target.blob_id in new
            ],
        )


def _read(workspace: Workspace, target: Target, scratch: Path) -> str | None:
    """Read an object for its SHA-256; None where it cannot be read: then its ETag and size are blocked."""
    try:
        with intents.workplace(scratch, target.size_bytes) as place, effect("takedown.read"):
            return workspace.bucket.download(target.key, place / "bytes", etag=target.etag)
    except (StorageError, DiskFull):
        return None


def delete_marked(workspace: Workspace, video_ids: Sequence[str], run_id: str) -> dict[int, str]:
    """Delete the bytes of videos marked as taken down; return the reason for each blob that is still stored."""
    grace = workspace.in_force.policies.lifecycle.grace  # for objects that the service has stored meanwhile
    with LeaseManager(workspace.engine) as manager:
        taken = _wait_for(manager, [f"video/{video_id}" for video_id in video_ids])
        free = [lease.name.removeprefix("video/") for lease in taken]
        outcomes = []
        if taken:
            _give_up_in_place(workspace, taken, grace)
            # guard takedown.claims: a freeze, which stops the purge, keeps what a killed one has claimed
            settle_claims(workspace, run_id=run_id, grace=grace, video_ids=free)
            with transaction(workspace.engine, "takedown.mark_again") as session:
                deployment.lock(session)
                # guard takedown.quota: what the service stored since the takedown began uses the quota for ever
                with quotas.counted(session, free):
                    # guard takedown.marked_again: a result that a swap put since the takedown began stays stored
                    takedowns.mark(session, free, run_id)
                # guard takedown.given_up: what a person settled as lost stays stored, and an erasure never ends
                let_go = doubts.let_go(session, free)
                stored = [item.blob_id for item in takedowns.targets(session, free) if item.state != BlobState.GONE]
                ended = [(video, blob, {"key": key, "as": "taken down"}) for blob, video, key in let_go]
                append(session, [Event("doubt_ended", run_id, video, blob, None, how) for video, blob, how in ended])
            for start in range(0, len(stored), _BATCH):
                some = stored[start : start + _BATCH]
                outcomes += purge_taken_down(workspace, some, lease=taken[0], run_id=run_id, grace=grace)
    kept = {outcome.blob_id: outcome.reason for outcome in outcomes if outcome.action != "purged" and outcome.blob_id}
    with reading(workspace.engine) as session:
        busy = takedowns.targets(session, sorted(set(video_ids) - set(free)))
    return kept | {target.blob_id: _BUSY for target in busy}


def _give_up_in_place(workspace: Workspace, leases: Sequence[Lease], grace: Grace) -> None:
    """End a swap in place that is under way: both the old bytes and the new ones at the key will be deleted."""
    by_video = {lease.name.removeprefix("video/"): lease for lease in leases}
    for intent in intents.open_intents(workspace):
        if intent.aside_blob_id is not None and intent.video_id in by_video:
            # guard takedown.in_place: our put at the service's key is mistaken for an upload, and goes live
            with suppress(StorageError):  # its put may still take effect: the takedown must be repeated
                in_place.give_up(workspace, intent, by_video[intent.video_id], grace)


def _wait_for(manager: LeaseManager, names: Sequence[str]) -> list[Lease]:
    """Take the leases `names`, waiting a while for their holders: no new work begins on a marked video."""
    taken = manager.take(names)
    until = time.monotonic() + _WAIT_SECONDS
    while len(taken) < len(names) and time.monotonic() < until:
        time.sleep(0.5)
        have = {lease.name for lease in taken}
        taken += manager.take([name for name in names if name not in have])
    return taken


def _objects(session: Session, video_id: str, kept: Mapping[int, str]) -> list[Removed]:
    blocked = {item.event.blob_id: item.event for item in audit.events(session, event="block", video_id=video_id)}
    deletions = [*audit.events(session, event="purge", video_id=video_id)]  # the latest first
    purged = {item.event.blob_id: item for item in reversed(deletions)}
    states = {target.blob_id: target.state for target in takedowns.targets(session, [video_id])}
    held = bool(takedowns.legally_held(session, [video_id]))
    removed = []
    for blob_id, event in sorted(blocked.items(), key=lambda item: item[0] or 0):
        state = states.get(blob_id or 0, BlobState.GONE)
        # guard takedown.stored_again: a certificate states when bytes were deleted that have come back since
        gone = purged.get(blob_id) if state == BlobState.GONE else None
        if gone is None and state == BlobState.GONE:
            continue  # its bytes were deleted earlier, as the audit record shows
        # guard takedown.versions: a certificate states when bytes were deleted that are still stored
        if versions := gone.event.detail.get("versions") if gone else None:
            why = f"{versions}. Delete every version of this key at the server; it is not served to anyone"
        else:
            why = "" if gone else kept.get(blob_id or 0) or _why(state, held=held)
        at = gone.at if gone and not versions else None
        number = gone.id if gone else None
        detail = event.detail
        removed.append(Removed(video_id, detail["key"], detail["bytes"], detail["sha256"], at, number, why))
    return removed


def _why(state: str, *, held: bool) -> str:
    if held:
        return "a legal hold keeps it; it is not served to anyone. Repeat the takedown when the hold has ended"
    if state == BlobState.DELETING:
        return "a purge has claimed it, and is deleting it"
    return "not deleted yet: repeat the takedown"
