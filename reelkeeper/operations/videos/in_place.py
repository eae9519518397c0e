"""Put bytes over those at a key of the service's, so that its links keep working, and put the old ones back.

    announce (commit) --copy aside--> --put, If-Match--> --read back and verify--> publish (commit)
                                            '------ not as announced: put back, If-Match ------> abandon (commit)

The old bytes are copied aside before anything is put, and wait out their grace there. The copy is recorded as it is
stored, by the run that continues the intent: its ETag is not known before. Each put replaces an object that
was seen, by its ETag, so an object that the service stores meanwhile stays. The MD5 of the new bytes is announced: it
is the key's ETag after the put, by which we recognise our own put after a crash.
"""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from reelkeeper.adapters.s3.r2 import Headers
from reelkeeper.errors import IntegrityDoubt, LeaseLost, ObjectChanged, ObjectLocked, ObjectMissing, StorageError
from reelkeeper.failpoints import effect
from reelkeeper.model import Grace, StoredObject
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos.new_key import NewKey
from reelkeeper.store import Session
from reelkeeper.store.core.audit import REPLACED, Event
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.videos import in_place as rows
from reelkeeper.store.videos.in_place import Exchange
from reelkeeper.store.videos.intents import Intent, close

_RESULT: Final = "reelkeeper"  # marks the metadata of a result


class Shows(StrEnum):
    """Whose bytes are at the key."""

    OLD = "old"
    NEW = "new"
    OTHER = "other"  # the service has stored or deleted an object


class InPlace(NewKey):
    """What is at the key of an intent in place, and the intent's record."""

    def __init__(
        self, workspace: Workspace, intent: Intent, known: Exchange, shows: Shows, found: StoredObject | None
    ) -> None:
        super().__init__(workspace, intent)
        self.known, self.shows, self.found = known, shows, found
        self.author, self.hold_days, self.is_over_old = known.author, known.hold_days, shows is Shows.NEW

    @property
    def wrong(self) -> str | None:
        """Return why nothing can be published, before anything is read; None where our bytes are there."""
        if self.known.undoing or self.shows is Shows.NEW:
            return self.known.undoing
        if self.shows is Shows.OLD:
            return "the result was not put in place"
        return "the service has overwritten or deleted it meanwhile, and that stays"

    @property
    def returned(self) -> StoredObject | None:
        """Return the object at the key if it is the old bytes that we put back."""
        return self.found if self.known.undoing and self.shows is Shows.OLD else None

    def overtaken(self) -> str | None:
        """Report nothing: what the service stores at the key is seen there."""
        return None

    def begin_undo(self, session: Session, why: str) -> bool:
        """Record the decision to put the old bytes back; False where another run has ended the intent."""
        return rows.begin_undo(session, self.intent, why)

    def put_back(self, folder: Path, lease: Lease) -> None:
        """Put the old bytes back from their copy, only over ours. Raises as `put` does, and StoreBehind."""
        # guard in_place.behind: a copy of the store puts back what its original has published since
        epochs.require_current(self.workspace)
        bucket, known, original = self.workspace.bucket, self.known, folder / "original"
        with effect("in_place.fetch"):
            digest = bucket.download(known.aside_key, original, etag=known.aside_etag)
        # guard in_place.back_whole: a corrupt copy is put back in place of the original bytes
        if digest != known.aside_sha256:
            raise IntegrityDoubt(
                f"{known.aside_key}: stored sha256 {digest}, recorded {known.aside_sha256}: not restored"
            )
        headers = bucket.headers(known.aside_key, known.aside_etag)
        _send(self.workspace, self.intent, original, known.new_etag, headers, lease, lambda: True)

    def publish(self, session: Session, grace: Grace) -> None:
        """Make the new row describe the object at the key, and start the grace of the copy aside."""
        if self.found is not None:
            rows.publish(session, self.intent, self.found, grace)

    def abandon(self, session: Session, grace: Grace, why: str) -> None:
        """Start the grace of the copy aside; the old row describes the old bytes, if they were put back."""
        rows.abandon(session, self.intent, self.returned, grace, why)

    def replaced(self, event: Event, *, moved: bool) -> list[Event]:
        """Return the event by which a cache learns that the key has other bytes now, if it has."""
        if not moved and not self.returned:
            return []
        # guard in_place.cache: the CDN's cache keeps serving the replaced bytes
        return [event._replace(event=REPLACED, detail={"key": self.intent.key})]


def look(workspace: Workspace, intent: Intent) -> InPlace:
    """Find whose bytes are at the key, and record the copy aside as it is stored, if a killed run has not.

    Raises StorageError while a put of ours may still take effect.
    """
    found = workspace.bucket.head(intent.key)
    with reading(workspace.engine) as session:
        known, at = rows.find(session, intent), now(session)
    etag = None if found is None else found.etag
    if etag == known.new_etag:  # the MD5 of our put, whatever size was announced
        shows = Shows.NEW
    # guard in_place.may_come: an intent is ended before its put takes effect, and no record explains the bytes
    elif rows.may_come(known.sent_at, at):
        raise StorageError(f"{intent.key}: a PUT of {known.sent_at:%H:%M:%S} got no answer: resolved 25 min later")
    else:
        shows = Shows.OLD if etag in (known.old.etag, known.old_md5) else Shows.OTHER
    # guard in_place.aside_as_stored: a killed run's copy aside is not as recorded: its purge freezes everything
    if known.aside_etag is None:
        note_copy(workspace, intent, known)
    return InPlace(workspace, intent, known, shows, found)


def is_result(headers: Headers) -> bool:
    """Check whether an object with these headers is the result of a swap, or a copy of one."""
    return _RESULT in headers.get("Metadata", {})


def mark(headers: Headers, intent: Intent) -> Headers:
    """Mark a result, and unmark its original: a new store, or one restored from a backup, does not know of the swap."""
    metadata = {name: value for name, value in headers.get("Metadata", {}).items() if name != _RESULT}
    if intent.kind == "swap":
        metadata[_RESULT] = "compressed"
    return {**headers, "Metadata": metadata}


def put(workspace: Workspace, intent: Intent, source: Path, lease: Lease) -> None:
    """Copy the old bytes aside, and put `source` over them; `look` returns the outcome.

    Raises Frozen, LeaseLost, IntegrityDoubt and StorageError, and leaves the intent open; ObjectLocked where a bucket
    lock keeps the key. An object that the service overwrote is left as it is, without an error.
    """
    bucket = workspace.bucket
    with reading(workspace.engine) as session:
        known = rows.find(session, intent)
    etag = known.old.etag or ""
    try:
        with effect("in_place.copy"):
            bucket.copy(intent.key, known.aside_key, etag)
        headers = mark(bucket.headers(intent.key, etag), intent)
    except (ObjectChanged, ObjectMissing):
        return
    # guard in_place.copied_whole: the original is overwritten although its copy differs
    if not note_copy(workspace, intent, known):
        raise IntegrityDoubt(f"{known.aside_key}: the copy of {intent.key} is missing, or does not match it")

    def is_unchanged() -> bool:
        found = bucket.head(intent.key)
        # guard in_place.as_recorded: an upload of the same bytes by the service keeps the age of the earlier one
        return found is not None and (known.old.matches(found) or found.etag == known.new_etag)

    _send(workspace, intent, source, etag, headers, lease, is_unchanged)


def note_copy(workspace: Workspace, intent: Intent, known: Exchange) -> bool:
    """Record the copy aside as it is stored; return whether it has the bytes that were read.

    A copy that is not there stays without an ETag, and is gone when the intent ends.
    """
    copied = workspace.bucket.head(known.aside_key)
    if copied is None:
        return False
    sha256 = known.aside_sha256
    # guard in_place.parts: a copy of an original in parts, whose ETag is no MD5, is taken for whole unread
    if (copied.size_bytes, copied.etag) != (known.old.size_bytes, known.old_md5):
        with effect("in_place.compare"):
            sha256 = workspace.bucket.download(known.aside_key, None, copied.etag)
    with transaction(workspace.engine, "in_place.copied") as session:
        rows.note_aside(session, intent, copied, sha256)
    return sha256 == known.aside_sha256


def give_up(workspace: Workspace, intent: Intent, lease: Lease, grace: Grace) -> None:
    """End an intent whose video is taken down: nothing is put back, and the object at the key can be deleted.

    Raises LeaseLost; StorageError while a put of ours may still take effect.
    """
    there, why = look(workspace, intent), "its video is taken down"
    with transaction(workspace.engine, "in_place.give_up") as session:
        require_permission(session, lease, despite_freeze=True)
        if there.shows is Shows.NEW and there.found:
            rows.hand_over(session, intent, there.found, grace, why)
        else:
            there.abandon(session, grace, why)
        close(session, intent, published=False, outcome=why, grace=grace)


def _send(
    workspace: Workspace,
    intent: Intent,
    file: Path,
    etag: str,
    headers: Headers,
    lease: Lease,
    is_unchanged: Callable[[], bool],
) -> None:
    def last_look() -> None:
        with transaction(workspace.engine, "in_place.sending") as session:
            # guard in_place.permission: a run puts bytes over the service's during a freeze, or without its lease
            require_permission(session, lease, despite_freeze=intent.kind == "restore")
            if not rows.note_sending(session, intent):
                raise LeaseLost(f"another run has settled the result for {intent.key}: nothing was put")
        if not is_unchanged():
            raise ObjectChanged(f"{intent.key}: the service has stored another object since it was read")

    locked = None
    try:
        with effect("in_place.put"):
            workspace.bucket.put_over(intent.key, file, etag, headers, last_look)
    except (ObjectChanged, ObjectMissing):
        pass  # the service's newer bytes stay
    except ObjectLocked as error:
        locked = error
    with transaction(workspace.engine, "in_place.answered") as session:
        rows.note_answered(session, intent)
    if locked:
        raise locked
