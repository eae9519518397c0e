"""Put bytes over those at a key of the service's, so that its links go on to work, and put the old ones back.

    announce (commit) --copy aside--> --put, If-Match--> --read back and verify--> publish (commit)
                                            '------ not as announced: put back, If-Match ------> abandon (commit)

The old bytes are copied aside before anything is put, and wait out their grace there. Each put is for one object that
was seen, by its ETag, so what the service stores meanwhile stays. The MD5 of what is put is announced: it is the ETag
that the key gets, by which a put is known as our own after a crash.
"""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from reelkeeper.adapters.s3.r2 import Headers
from reelkeeper.errors import IntegrityDoubt, LeaseLost, ObjectChanged, ObjectLocked, ObjectMissing, StorageError
from reelkeeper.failpoints import effect
from reelkeeper.model import Grace, StoredObject
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import in_place as rows
from reelkeeper.store.lifecycle.in_place import InPlace
from reelkeeper.store.videos.intents import Intent, close

_RESULT: Final = "reelkeeper"  # a name in the metadata of what a swap has put over the service's bytes


class Shows(StrEnum):
    """Whose bytes stand at the key."""

    OLD = "old"
    NEW = "new"
    OTHER = "other"  # the service has stored something, or deleted what was there


class Sight(NamedTuple):
    """What stands at the key of an intent in place, and what is recorded of the intent."""

    known: InPlace
    shows: Shows
    found: StoredObject | None

    @property
    def wrong(self) -> str | None:
        """Say why nothing can be published, before anything is read; None where our bytes stand there."""
        if self.known.undoing or self.shows is Shows.NEW:
            return self.known.undoing
        if self.shows is Shows.OLD:
            return "the result was not put in place"
        return "the service has overwritten or deleted it meanwhile, and that stays"

    @property
    def put_back(self) -> StoredObject | None:
        """Return the old bytes as they stand there, if it was us who put them back."""
        return self.found if self.known.undoing and self.shows is Shows.OLD else None


def look(workspace: Workspace, intent: Intent) -> Sight:
    """See whose bytes stand at the key. Raises StorageError while a put of ours may be taken yet."""
    found = workspace.bucket.head(intent.key)
    with reading(workspace.engine) as session:
        known, at = rows.find(session, intent), now(session)
    etag = None if found is None else found.etag
    if etag == known.new_etag:  # the MD5 of what was put: whatever its size was announced as, it is our own
        return Sight(known, Shows.NEW, found)
    # guard in_place.may_come: an intent is ended, and its put comes later and is nobody's
    if rows.may_come(known.sent_at, at):
        raise StorageError(f"{intent.key}: a PUT of {known.sent_at:%H:%M:%S} got no answer: resolved 25 min later")
    return Sight(known, Shows.OLD if etag in (known.old.etag, known.old_md5) else Shows.OTHER, found)


def is_result(headers: Headers) -> bool:
    """Check whether an object with these headers is the result of a swap in place, or a copy of one."""
    return _RESULT in headers.get("Metadata", {})


def _marked(headers: Headers, intent: Intent) -> Headers:
    """Mark a result as such, and its original as none: a store restored from a backup does not know of the swap."""
    metadata = {name: value for name, value in headers.get("Metadata", {}).items() if name != _RESULT}
    if intent.kind == "swap":
        metadata[_RESULT] = "compressed"
    return {**headers, "Metadata": metadata}


def put(workspace: Workspace, intent: Intent, source: Path, place: Path, lease: Lease) -> None:
    """Copy the old bytes aside, and put `source` over them. What became of it, `look` says.

    `place` is a folder with room for the old bytes. Raises Frozen, LeaseLost, IntegrityDoubt and StorageError, and
    leaves the intent open; ObjectLocked where a bucket lock keeps the key. One that the service has overwritten is left
    as it is, and that is no error.
    """
    bucket = workspace.bucket
    with reading(workspace.engine) as session:
        known = rows.find(session, intent)
    etag = known.old.etag or ""
    try:
        with effect("in_place.copy"):
            bucket.copy(intent.key, known.aside_key, etag)
        headers = _marked(bucket.headers(intent.key, etag), intent)
    except (ObjectChanged, ObjectMissing):
        return
    _require_whole(workspace, intent, known, place)

    def is_unchanged() -> bool:
        found = bucket.head(intent.key)
        # guard in_place.as_recorded: the same bytes, stored again by the service, keep the age of the ones before
        return found is not None and (known.old.matches(found) or found.etag == known.new_etag)

    _send(workspace, intent, source, etag, headers, lease, is_unchanged)


def put_back(workspace: Workspace, intent: Intent, known: InPlace, place: Path, lease: Lease) -> None:
    """Put the old bytes back from their copy, over ours and nothing else. Raises as `put` does."""
    original = place / "original"
    with effect("in_place.fetch"):
        digest = workspace.bucket.download(known.aside_key, original, etag=known.aside_etag)
    # guard in_place.back_whole: bytes that changed in their copy are put back for the ones that were there
    if digest != known.aside_sha256:
        raise IntegrityDoubt(f"{known.aside_key}: stored sha256 {digest}, recorded {known.aside_sha256}: not restored")
    headers = workspace.bucket.headers(known.aside_key, known.aside_etag)
    _send(workspace, intent, original, known.new_etag, headers, lease, lambda: True)


def give_up(workspace: Workspace, intent: Intent, lease: Lease, grace: Grace) -> None:
    """End an intent whose video is taken down: nothing is put back, and what stands at the key is there to be deleted.

    Raises LeaseLost; StorageError while a put of ours may be taken yet.
    """
    sight, why = look(workspace, intent), "its video is taken down"
    with transaction(workspace.engine, "in_place.give_up") as session:
        require_permission(session, lease, despite_freeze=True)
        if sight.shows is Shows.NEW and sight.found:
            rows.hand_over(session, intent, sight.found, grace, why)
        else:
            rows.abandon(session, intent, sight.put_back, grace, why)
        close(session, intent, published=False, outcome=why, grace=grace)


def _require_whole(workspace: Workspace, intent: Intent, known: InPlace, place: Path) -> None:
    """Record the copy aside. Raises IntegrityDoubt unless it is the bytes that were read, whatever the bucket says."""
    copied = workspace.bucket.head(known.aside_key)
    same = copied is not None and (copied.size_bytes, copied.etag) == (known.old.size_bytes, known.old_md5)
    if copied is not None and not same:  # what came in parts has no MD5 for an ETag, and its copy need not have one
        with effect("in_place.compare"):
            same = workspace.bucket.download(known.aside_key, place / "aside") == known.aside_sha256
        (place / "aside").unlink()
    with transaction(workspace.engine, "in_place.copied") as session:
        if copied is not None:
            rows.note_aside(session, intent, copied)
    # guard in_place.copied_whole: the original is overwritten, and its copy is not what it was
    if copied is None or not same:
        raise IntegrityDoubt(f"{known.aside_key}: the copy of {intent.key} does not match it: {copied or 'missing'}")


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
            # guard in_place.permission: while frozen, or with its lease lost, a run puts bytes over the service's
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
