"""Erase a user: delete all data, except in the books and the audit record, which keep a pseudonym.

    begin (commit) --> jobs end --> promises end --> videos, loose objects and images go
                                                        '--> the audit record is emptied --> the rows go (commit)
                                                                              --> vendors are asked for their copies

If it is killed, a repetition continues; the user's row says that it is under way, and nothing new is accepted. Objects
kept by a legal hold or the bucket delay the rows, too, which record what is kept, and why. The last step destroys the
only link from the pseudonym to the user.
"""

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, NamedTuple

from reelkeeper.adapters.s3.keys import key_name
from reelkeeper.errors import HoldClosed, InputRefused, LeaseLost, NotFound
from reelkeeper.failpoints import effect
from reelkeeper.model.buckets import NEVER
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.billing import quota
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import MAX_SKEW_FROM_BUCKET, Workspace
from reelkeeper.operations.jobs.settle import cancel
from reelkeeper.operations.lifecycle import cache_purge
from reelkeeper.operations.lifecycle.purge import delete_loose, settle_claims
from reelkeeper.operations.removals import at_vendors, lock_ends, takedown
from reelkeeper.operations.removals.at_vendors import AtVendor
from reelkeeper.operations.videos import service_files
from reelkeeper.operations.videos.service_files import ServiceFile
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.lifecycle.identifiers import Identifiers
from reelkeeper.settings import Settings
from reelkeeper.store import Session
from reelkeeper.store.billing import quotas
from reelkeeper.store.core import audit, former_ids
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.removals import at_vendors as vendor_erasures
from reelkeeper.store.removals import erase_rows, erasures, takedowns
from reelkeeper.store.removals.erasures import Erasing
from reelkeeper.store.sync import noted
from reelkeeper.store.videos import uploads
from reelkeeper.store.videos.videos import is_user

WAIT_SECONDS: Final = 20.0  # for running jobs to stop
_BATCH: Final = 500
_MAX_SHOWN: Final = 1_000


class Left(NamedTuple):
    """Something that an erasure waits for. `until`: when that ends, where it is known; `key` where it is an object."""

    why: str
    until: datetime | None = None
    key: str | None = None


class Foreseen(NamedTuple):
    """What an erasure would delete now, as the catalogue and the last listings know it, and what it would leave."""

    videos: int
    objects: int
    size_bytes: int
    files: tuple[ServiceFile, ...]  # of the service's, with unfinished uploads
    uploads_unknown: bool = False  # the server does not list unfinished uploads


class Erasure(NamedTuple):
    """The state of an erasure: complete, unless something is `left`. `rows` are the deleted ones, by table.

    `versions`: why deleted bytes stay stored as versions, which only the bucket's owner can delete; "" where none do.
    `vendors`: what became of the copies of those who made the videos, for which nothing here waits.
    `files`: the service's own, such as thumbnails, and unfinished uploads, that stay; `files_deleted`: how many of them
    were deleted. `uploads_unknown`: the server does not list unfinished uploads, so some may stay.
    """

    pseudonym: str
    since: datetime
    left: tuple[Left, ...]
    rows: dict[str, int]
    events: int  # audit events without the user's data now
    versions: str = ""
    vendors: tuple[AtVendor, ...] = ()
    files: tuple[ServiceFile, ...] = ()
    files_deleted: int = 0
    uploads_unknown: bool = False

    @property
    def until(self) -> datetime | None:
        """Return the time when nothing is left to wait for; None where that is not known, or nothing is left."""
        ends = [item.until for item in self.left]
        return max(end for end in ends if end) if ends and all(ends) else None


class _Run(NamedTuple):
    workspace: Workspace
    erasing: Erasing
    lease: Lease
    run_id: str


def erase(
    workspace: Workspace,
    user_id: str,
    *,
    by: str,
    run_id: str,
    settings: Settings,
    wait_seconds: float = WAIT_SECONDS,
    with_files: bool = False,
) -> Erasure:
    """Erase a user, as far as possible now. Safe to repeat: each call continues, and says what it waits for.

    `with_files` also deletes the service's own files in the user's folder, if a pattern reads their keys as the user's,
    once nothing else is left. `settings` name Cloudflare's zone and account, and have the vendors' keys. Raises
    NotFound for a user who is unknown or already erased; InputRefused where an earlier version made a second row of the
    user; StoreBehind; Frozen; LeaseLost where another process is erasing the user.
    """
    # guard erase.behind: a copy of the store begins to erase a user whom the original keeps
    epochs.require_current(workspace)
    with transaction(workspace.engine, "erase.begin") as session:
        require_permission(session)
        user_id = former_ids.known_user(session, user_id)
        # guard erase.both_rows: an erasure is called complete while an older row of the user keeps their videos
        if (other := former_ids.earlier_row(session, user_id)) and is_user(session, user_id, even_erased=True):
            raise InputRefused(
                f"a part of what user {user_id!r} has is recorded under {other!r}, an id that an earlier version made: "
                f"nothing was erased. Join them first: reelkeeper users rename {other} {shlex.quote(user_id)}"
            )
        is_new = erasures.find(session, user_id) is None
        erasing = erasures.begin(session, user_id)
        if erasing is None:
            raise _unknown(user_id)
        # guard erase.vendors: vendors keep a user's requests and videos as long as something holds up the erasure
        vendor_erasures.ask_for_user(session, user_id)
        if is_new:
            append(session, [Event("erase_begin", run_id, user_id=user_id, detail={"by": by})])
    with LeaseManager(workspace.engine) as manager:
        taken = manager.take([f"erase/{erasing.pseudonym}"])
        # guard erase.alone: two processes erase a user at once, and one records data that the other has erased
        if not taken:
            raise LeaseLost(
                f"user {user_id!r} is being erased by another process; nothing was changed here. Try again in a minute"
            )
        run = _Run(workspace, erasing, taken[0], run_id)
        _end_jobs(run, wait_seconds)
        _end_promises(run)
        kept = _delete_videos(run)
        refused = _delete_loose(run)
        left, files_deleted = _with_lock_ends(run, _left(run, kept, refused), settings), 0
        # guard erase.files_asked: the service's own files are deleted by an erasure that was not told to
        # guard erase.files_last: files beside videos that a legal hold keeps are deleted
        if with_files and not left:
            files_deleted, refused = _delete_files(run)
            files_deleted += _abort_uploads(run)
            left = _with_lock_ends(run, _left(run, {}, refused), settings)
        # guard erase.cache: an erased user's videos stay in the CDN's cache, and no record names them any more
        if cache_purge.catch_up(workspace.engine, settings, run_id) is None:
            left = (
                *left,
                Left("Cloudflare's cache could not be purged of the objects: repeat when Cloudflare answers"),
            )
        files, unknown = _files(workspace, user_id)
        done = Erasure(erasing.pseudonym, erasing.since, left, {}, 0) if left else _finish(run, by, files)
    # After our own bytes and rows, which no vendor holds up.
    at_vendors.catch_up(workspace.engine, settings, run_id)
    name = user_id if done.left else erasing.pseudonym
    vendors = at_vendors.of_user(workspace.engine, name)
    return done._replace(files=files, files_deleted=files_deleted, vendors=vendors, uploads_unknown=unknown)


def foresee(workspace: Workspace, user_id: str) -> Foreseen:
    """Say what an erasure of this user would delete. Raises NotFound for one who is unknown or already erased."""
    with reading(workspace.engine) as session:
        user_id = former_ids.known_user(session, user_id)
        if not is_user(session, user_id, even_erased=True):
            raise _unknown(user_id)
        videos, objects, size_bytes = erasures.count_stored(session, user_id)
    others = [item.size_bytes for item in service_files.loose_of_user(workspace, user_id)]
    others += [item.size_bytes for item in workspace.bucket.stored(_images(workspace, user_id)).values() if item]
    return Foreseen(videos, objects + len(others), size_bytes + sum(others), *_files(workspace, user_id))


def _files(workspace: Workspace, user_id: str) -> tuple[tuple[ServiceFile, ...], bool]:
    """List the service's files and unfinished uploads that are the user's, and say if the server hides the latter."""
    uploads = service_files.uploads_of_user(workspace, user_id)
    return (*service_files.of_user(workspace, user_id), *(uploads or ())), uploads is None


def _unknown(user_id: str) -> NotFound:
    return NotFound(f"no user {user_id!r} in the catalogue: already erased, or never existed")


def _end_jobs(run: _Run, wait_seconds: float) -> None:
    """Cancel the user's jobs, and wait a while for running ones; their workers settle those that a provider has."""
    until = time.monotonic() + wait_seconds
    while in_flight := _in_flight(run):
        for job_id in in_flight:
            cancel(run.workspace.engine, job_id, run_id=run.run_id)
        if not (in_flight := _in_flight(run)) or time.monotonic() >= until:
            break
        time.sleep(0.5)


def _in_flight(run: _Run) -> list[str]:
    with reading(run.workspace.engine) as session:
        return erasures.jobs_in_flight(session, run.erasing.user_id)


def _end_promises(run: _Run) -> None:
    """Release the reservations of uploads. Presigned URLs work until they expire; the erasure waits for that."""
    with transaction(run.workspace.engine, "erase.promises") as session:
        require_permission(session, run.lease)
        promised = erasures.open_reservations(session, run.erasing.user_id)
        for reservation in promised:
            with suppress(HoldClosed):  # an upload under way uses it, and ends it
                quota.release(session, reservation)
        uploads.release(session, promised)


def _delete_videos(run: _Run) -> dict[int, str]:
    """Delete the bytes of all the user's videos, as a takedown does; return the reason for each blob still stored."""
    kept: dict[int, str] = {}
    grace = run.workspace.in_force.policies.lifecycle.grace
    for some in _stored_videos(run):
        settle_claims(run.workspace, run_id=run.run_id, grace=grace, lease=run.lease, video_ids=some)
        takedown.take_unnoticed(run.workspace, some, run.run_id)
        with transaction(run.workspace.engine, "erase.mark") as session:
            require_permission(session, run.lease)
            with quotas.counted(session, some):
                takedowns.mark(session, some, run.run_id)
        kept |= takedown.delete_marked(run.workspace, some, run.run_id)
    return kept


def _stored_videos(run: _Run) -> Iterator[list[str]]:
    after = ""
    while True:
        with reading(run.workspace.engine) as session:
            some = erasures.stored_videos(session, run.erasing.user_id, after, _BATCH)
        if not some:
            return
        yield some
        after = some[-1]


def _delete_loose(run: _Run) -> dict[str, str]:
    """Delete the user's objects without a row, and images that only they used; say why the bucket kept some."""
    candidates = [
        *service_files.loose_keys(run.workspace, run.erasing.user_id),
        *_images(run.workspace, run.erasing.user_id),
    ]
    return _delete_stored(run, sorted(candidates))[1]


def _images(workspace: Workspace, user_id: str) -> list[str]:
    with reading(workspace.engine) as session:
        return [workspace.bucket.image_key(sha256) for sha256 in erasures.own_images(session, user_id)]


def _delete_stored(run: _Run, candidates: Sequence[str]) -> tuple[int, dict[str, str]]:
    """Delete the objects at these keys that belong to no row; count them, and say why the bucket kept others."""
    deleted, refused = 0, dict[str, str]()
    for start in range(0, len(candidates), _BATCH):
        some = candidates[start : start + _BATCH]
        stored = [key for key, found in run.workspace.bucket.stored(some).items() if found]
        with reading(run.workspace.engine) as session:
            # guard erase.loose_held: what a user uploaded and never completed is deleted under a legal hold
            if erasures.legal_hold(session, run.erasing.user_id)[0]:
                break
            standing = erasures.with_videos(session, stored)
        # guard erase.others_key: an object is deleted that still belongs to a video's row
        stored = [key for key in stored if key not in standing]
        kept = delete_loose(run.workspace, stored, lease=run.lease)
        with transaction(run.workspace.engine, "erase.loose") as session:
            gone = [key for key in stored if key not in kept]
            events = [Event("purge", run.run_id, user_id=run.erasing.user_id, detail={"key": key}) for key in gone]
            record(session, events)
        deleted += len(gone)
        refused |= kept
    return deleted, refused


def _delete_files(run: _Run) -> tuple[int, dict[str, str]]:
    """Delete the service's files in the user's folder, as a pattern reads it; count them, and say which are kept."""
    files = service_files.of_user(run.workspace, run.erasing.user_id)
    theirs = [file.key for file in files if file.is_deletable]
    return _delete_stored(run, [key for key in theirs if service_files.is_within(run.workspace.bucket, key)])


def _abort_uploads(run: _Run) -> int:
    """Abort the unfinished uploads at keys whose files would be deleted; count them."""
    aborted, user_id = 0, run.erasing.user_id
    for upload in service_files.uploads_of_user(run.workspace, user_id) or ():
        if upload.is_deletable and service_files.is_within(run.workspace.bucket, upload.key):
            epochs.require_current(run.workspace)
            with transaction(run.workspace.engine, "erase.upload") as session:
                # guard erase.uploads_permission: uploads are aborted during a freeze, or without the lease
                require_permission(session, run.lease)
                # guard erase.uploads_held: an upload is aborted under a legal hold that was placed meanwhile
                if erasures.legal_hold(session, user_id)[0]:
                    break
                detail = {"key": upload.key, "upload": upload.upload_id}
                record(session, [Event("purge", run.run_id, user_id=user_id, detail=detail)])
            with effect("erase.abort"):
                run.workspace.bucket.abort(upload.key, upload.upload_id)
            aborted += 1
    return aborted


def _left(run: _Run, kept: dict[int, str], refused: dict[str, str]) -> tuple[Left, ...]:
    """List what the erasure waits for; no row is deleted before this is empty."""
    with reading(run.workspace.engine) as session:
        return _left_within(session, run, kept, refused)


def _left_within(session: Session, run: _Run, kept: dict[int, str], refused: dict[str, str]) -> tuple[Left, ...]:
    user_id, found = run.erasing.user_id, list[Left]()
    if at_work := erasures.jobs_in_flight(session, user_id):
        found.append(Left(f"{many(len(at_work), 'job')} at work, asked to stop: repeat in a minute"))
    if until := erasures.urls_until(session, user_id, MAX_SKEW_FROM_BUCKET):
        found.append(Left("an upload URL is still valid: repeat when it has expired", until))
    is_held, until = erasures.legal_hold(session, user_id)
    if is_held:
        found.append(Left("the user is under a legal hold: repeat when it has ended", until))
    for item in erasures.left(session, user_id, _MAX_SHOWN):
        why = "a legal hold keeps it" if item.is_held else kept.get(item.blob_id, "not deleted yet: repeat in a minute")
        found.append(Left(why, item.until, item.key))
    return (*found, *(Left(f"the bucket has not deleted it: {why}", None, key) for key, why in refused.items()))


def _with_lock_ends(run: _Run, left: tuple[Left, ...], settings: Settings) -> tuple[Left, ...]:
    """Add the end of the bucket lock to each object that the bucket refused to delete for one."""
    kept = ((item.key, item.why) for item in left if item.key)
    until = lock_ends.ends(run.workspace, kept, lock_ends.reader(settings))
    known = {key: None if end == NEVER else end for key, end in until.items()}
    return tuple(
        Left("a bucket lock keeps it", known[item.key], item.key) if item.key in known else item for item in left
    )


def _finish(run: _Run, by: str, files: Sequence[ServiceFile]) -> Erasure:
    """Erase the user's part of the audit record, and the rows."""
    # guard erase.versions: an erasure is called complete while all bytes stay stored as versions
    versions = run.workspace.bucket.versions_left()
    engine, erasing = run.workspace.engine, run.erasing
    with reading(engine) as session:
        # guard erase.former: what names the user by an id from before `users rename` stays
        names = {erasing.user_id, *former_ids.of_user(session, erasing.user_id)}
        own = erasures.all_videos(session, erasing.user_id)
    user, of_videos = (frozenset(found | {key_name(name) for name in found}) for found in (names, own))
    ids = Identifiers(user, of_videos, erasing.pseudonym)
    events, last = 0, 0
    while found := _read_events(run, ids, last):
        places, last = found
        with transaction(engine, "erase.events") as session:
            require_permission(session, run.lease)
            events += audit.erase(session, places, erasing.pseudonym, run_id=run.run_id)
    with transaction(engine, "erase.rows") as session:
        require_permission(session, run.lease)
        # guard erase.nothing_left: rows are deleted while their objects are still stored, and lost track of
        if left := _left_within(session, run, {}, {}):
            return Erasure(erasing.pseudonym, erasing.since, left, {}, events)
        while found := _events(session, run, ids, last):  # events recorded since
            places, last = found
            events += audit.erase(session, places, erasing.pseudonym, run_id=run.run_id)
        # guard erase.vendors_again: a vendor keeps what a job sent while its user was being erased
        vendor_erasures.ask_for_user(session, erasing.user_id)
        for start in range(0, len(files), _BATCH):  # the next listing notes those that stay again, as nobody's
            noted.forget(session, [file.key for file in files[start : start + _BATCH]])
        rows = erase_rows.erase(session, erasing, ids.cleaned, ids.of_user.forms, ids.are_in_anothers)
        detail = {"by": by, "since": erasing.since.isoformat(), "events": events, **rows}
        detail |= {"versions": versions} if versions else {}
        detail |= {"files_left": len(files)} if files else {}
        append(session, [Event("erase", run.run_id, user_id=erasing.pseudonym, detail=detail)])
    return Erasure(erasing.pseudonym, erasing.since, (), rows, events, versions)


def _read_events(run: _Run, ids: Identifiers, last: int) -> tuple[list[int], int] | None:
    with reading(run.workspace.engine) as session:
        return _events(session, run, ids, last)


def _events(session: Session, run: _Run, ids: Identifiers, last: int) -> tuple[list[int], int] | None:
    """Read the next events after number `last`; return those that are the user's or name them, and the last number."""
    some = erasures.personal_events(session, run.erasing.user_id, last, _BATCH)
    found = [
        event.place
        for event in some
        # guard erase.anothers: another user's certificate is emptied for a folder called like the erased user's video
        if event.is_theirs or (ids.are_in_anothers if event.is_anothers else ids.are_in)(event.detail)
    ]
    return (found, some[-1].place) if some else None
