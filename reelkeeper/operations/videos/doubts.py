"""Look into doubts, list them, and settle them: objects at keys of ours that are not as recorded.

Such a key is written once, so another object there should be impossible. It is left as it is, and no purge touches it.
If its bytes are the recorded ones, as where another server, or a copy of parts, gave them another ETag, the ETag is
recorded. All others wait for a person.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from reelkeeper.errors import NotFound, Refused, StorageError
from reelkeeper.failpoints import effect
from reelkeeper.model import SettledAs, StoredObject
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.core.freeze import require_permission, why_frozen
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.redaction import unnamed
from reelkeeper.rules.core.wording import size
from reelkeeper.store import Session
from reelkeeper.store.billing import quotas
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import doubts
from reelkeeper.store.lifecycle.doubts import Doubt, Suspect, size_and_etag
from reelkeeper.store.removals import takedowns
from reelkeeper.store.sync import lost
from reelkeeper.store.videos import cache

_RULE: Final = "doubt"  # of the alerts
_READ_AT_ONCE = 200  # objects whose bytes one call reads; it notes the others, and a later one reads them


@dataclass(frozen=True, slots=True)
class Settled:
    """A settled doubt, the doubts that are left, and why changes are frozen."""

    doubt: Doubt
    settled_as: SettledAs
    left: int
    frozen: str | None


def tell(workspace: Workspace, *, run_id: str) -> None:
    """Alert people to each doubt once, and again where other bytes have come; resolve the alerts of ended ones."""
    with transaction(workspace.engine, "doubts.tell") as session:
        found = [_finding(doubt) for doubt in doubts.listed(session)]
        alerts.observe_within(session, found, rules=[_RULE], run_id=run_id)


def _finding(doubt: Doubt) -> Finding:
    stored = "nothing" if doubt.found_bytes is None else f"{size(doubt.found_bytes)}, ETag {doubt.found_etag}"
    return Finding(
        rule=_RULE,
        scope=f"blob:{doubt.id}",
        period=doubt.found_etag or "missing",
        severity=Severity.WARNING,
        title="An object at a key of ours is not as recorded",
        text=f"{unnamed(doubt.key)}: recorded are {size(doubt.expected_bytes)}, ETag {doubt.expected_etag}; stored: "
        f"{stored}. Nothing is deleted, and no purge touches it.",
        suggestion="To compare and settle it: reelkeeper doubts",
    )


def look_into(
    workspace: Workspace, found: Mapping[str, StoredObject | None], *, run_id: str, lease: Lease | None = None
) -> set[str]:
    """Read what is stored at keys of ours, record ETags of bytes that are as recorded; return the keys in doubt.

    With `lease`, raises Frozen or LeaseLost.
    """
    with reading(workspace.engine) as session:
        known = doubts.suspects(session, list(found))
    odd = {
        key: suspect
        for key, suspect in known.items()
        if (not suspect.recorded.matches(stored) if (stored := found[key]) else suspect.is_live)
    }
    if not odd:
        return set()
    digests: dict[str, str | None] = {}
    for key, suspect in odd.items():
        stored, seen = found[key], suspect.seen_sha256
        if seen is None or suspect.seen != size_and_etag(stored):
            seen = _read(workspace, stored, suspect) if stored and len(digests) < _READ_AT_ONCE else None
        digests[key] = seen
    with transaction(workspace.engine, "doubts.note") as session:
        if lease:
            # guard doubts.permission: records of objects are changed during a freeze, or without the lease
            require_permission(session, lease)
        else:
            deployment.lock(session)
        events, in_doubt = [], set[str]()
        for key, suspect in odd.items():
            stored, is_seen = found[key], suspect.seen == size_and_etag(found[key])
            about = (run_id, suspect.video_id, suspect.blob_id, None)
            # guard doubts.recognized: other bytes at a write-once key are recorded as ours, and purged
            if stored and suspect.sha256 is not None and digests[key] == suspect.sha256:
                doubts.recognize(session, suspect, stored)
                events.append(Event("doubt_ended", *about, {"key": key, "as": "recorded"}))
                continue
            doubts.note(session, suspect, stored, digests[key])
            if not is_seen:
                size_bytes, etag = size_and_etag(stored)
                events.append(Event("doubt", *about, {"key": key, "bytes": size_bytes, "etag": etag}))
            if not (suspect.is_settled and is_seen):
                in_doubt.add(key)
        append(session, events)
    return in_doubt


def standing(workspace: Workspace, found: Iterable[StoredObject]) -> set[str]:
    """Return the keys in doubt that an earlier run has told of, and whose objects are the same since."""
    with reading(workspace.engine) as session:
        known = {(doubt.key, doubt.found_bytes, doubt.found_etag) for doubt in doubts.listed(session)}
    return {stored.key for stored in found if (stored.key, *size_and_etag(stored)) in known}


def _read(workspace: Workspace, stored: StoredObject, suspect: Suspect) -> str | None:
    """Return the SHA-256 of an object of the recorded size; None for others, and where it cannot be read."""
    if suspect.sha256 is None or stored.size_bytes != suspect.recorded.size_bytes:
        return None
    try:
        with effect("doubts.read"):
            return workspace.bucket.download(stored.key, None, stored.etag)
    except StorageError:
        return None


def settle(workspace: Workspace, doubt: Doubt, how: SettledAs, *, author: str, run_id: str) -> Settled:
    """End a doubt as a person says. It works while changes are frozen, as a doubt may be the cause.

    As `stored`, the object becomes the record: a retired blob's is purged after a new grace, a live one's is shown. As
    `lost`, the blob is, and its video if it shows that; nothing deletes the object. Raises Refused where blob or object
    has changed since `doubt` was listed, where a purge has claimed it, where nothing is stored that could be accepted,
    or only what was taken down.
    """
    found = workspace.bucket.head(doubt.key)
    # guard doubts.as_stored: a doubt is settled about other bytes than a person has seen listed
    if size_and_etag(found) != (doubt.found_bytes, doubt.found_etag):
        look_into(workspace, {doubt.key: found}, run_id=run_id)
        raise Refused(f"{doubt.key} has changed since it was listed, and nothing was settled: reelkeeper doubts")
    if how is SettledAs.STORED and found is None:
        raise Refused(f"nothing is stored at {doubt.key}; to give it up: reelkeeper doubts settle {doubt.id} --as lost")
    sha256 = doubt.found_sha256
    if how is SettledAs.STORED and sha256 is None:
        with effect("doubts.read"):
            sha256 = workspace.bucket.download(doubt.key, None, doubt.found_etag)
    with transaction(workspace.engine, "doubts.settle") as session:
        deployment.lock(session)
        if not doubts.lock_as_listed(session, doubt):
            raise Refused(f"{doubt.key} has changed since it was listed, or a purge has claimed it: reelkeeper doubts")
        detail = {"key": doubt.key, "as": how, "was_etag": doubt.expected_etag, "etag": doubt.found_etag}
        append(session, [Event("doubt_ended", author, doubt.video_id, doubt.id, None, detail)])
        if how is SettledAs.STORED:
            _accept(workspace, session, doubt, str(sha256))
        else:
            _give_up(session, doubt, run_id)
        left = len(doubts.listed(session))
    return Settled(doubt, how, left, why_frozen(workspace.engine))


def find(workspace: Workspace, blob_id: int) -> Doubt:
    """Find an open doubt. Raises NotFound."""
    with reading(workspace.engine) as session:
        found = doubts.listed(session, blob_id)
    if not found:
        raise NotFound(f"no doubt {blob_id}; to list them: reelkeeper doubts")
    return found[0]


def _accept(workspace: Workspace, session: Session, doubt: Doubt, sha256: str) -> None:
    with quotas.counted(session, standing_on=[doubt.id]):
        doubts.accept(session, doubt, sha256, workspace.in_force.policies.lifecycle.grace)
    # guard doubts.taken_down: bytes that were taken down are shown again
    if takedowns.find_blocked(session, [doubt.id]):
        raise Refused(f"the bytes at {doubt.key} were taken down, so they are not accepted")
    if doubt.video_id and sha256 != doubt.expected_sha256:
        cache.drop(session, [doubt.video_id])


def _give_up(session: Session, doubt: Doubt, run_id: str) -> None:
    gone = lost.mark_blobs(session, [doubt.id], run_id)
    with quotas.counted(session, standing_on=[doubt.id]):
        lost.mark_videos(session, [row.blob_id for row in gone], run_id)
    if doubt.video_id:
        cache.drop(session, [doubt.video_id])
    append(session, [Event("lose", run_id, row.video_id, row.blob_id, None, {"key": row.key}) for row in gone])
    doubts.give_up(session, doubt)
