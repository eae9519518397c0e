"""Compare the bucket with the catalogue, a page at a time: the reading half of `sync`.

Memory stays flat: one page, one bit for each blob, and the differences, of which a healthy deployment has few.
Objects without a row are noted in the table `orphans`, as on the first day all are. The listing may come in
any order, and objects written or deleted while it runs are not mistaken for differences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from reelkeeper.adapters.s3.keys import IDENTITY
from reelkeeper.errors import NotFound
from reelkeeper.model import BlobState, Counts, StoredObject
from reelkeeper.operations.core.workspace import Workspace, check_identity, misplaced
from reelkeeper.operations.sync import adoption
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.sync import scans

_BATCH = 1_000
_PRESENT = frozenset({str(BlobState.LIVE), str(BlobState.RETIRED)})


@dataclass(slots=True)
class Survey:
    """The differences between one complete listing and the catalogue."""

    scan_id: str
    started_at: datetime
    expected: int = 0  # live and retired blobs that were stored before it began
    seen: int = 0  # those of them that were listed
    listed: Counts = field(default_factory=Counts)
    unexplained: int = 0
    overwritten: list[tuple[int, StoredObject]] = field(default_factory=list)  # the service's keys: blob id, object
    claimed: list[str] = field(default_factory=list)  # the service's keys whose blob a purge has claimed
    doubtful: list[tuple[int, StoredObject]] = field(default_factory=list)  # our write-once keys: blob id, object
    reappeared: list[int] = field(default_factory=list)  # rows in `gone` whose object exists
    found: list[int] = field(default_factory=list)  # rows in `lost` whose object exists
    missing: list[int] = field(default_factory=list)  # expected and not listed; `confirm_missing` sends a HEAD for each

    @property
    def changed(self) -> list[str]:
        """The keys of objects that differ from their record."""
        return [stored.key for _, stored in self.overwritten + self.doubtful] + self.claimed

    @property
    def emptied(self) -> list[str]:
        """The keys of known objects that the service has overwritten with 0 bytes."""
        return [stored.key for _, stored in self.overwritten if not stored.size_bytes]


def survey(workspace: Workspace, *, run_id: str, note: bool, shards: int = 1) -> Survey:
    """List everything under the prefix and compare. Writes only a scan and, if `note`, objects without a row.

    `shards` ranges are listed at the same time, each with about as many of the catalogue's keys.
    Raises TruncatedListing, and StorageError when the bucket does not answer: half a listing must not be used;
    IdentityMismatch when another store works on a part of the prefix.
    """
    with transaction(workspace.engine, "sync.begin") as session:
        result = Survey(uuid4().hex, now(session))
        scans.begin(session, result.scan_id, run_id, result.started_at)
        highest = scans.highest_blob_id(session)
        result.expected = scans.count_expected(session, result.started_at)
        boundaries = scans.boundaries(session, highest, shards)
    bits = bytearray(highest // 8 + 1)
    for page in workspace.bucket.pages(boundaries):
        unexplained = compare(workspace, page, result, bits)
        # guard sync.nested: two stores manage the same videos, and each ignores the other's views and holds
        _require_alone(workspace, unexplained)
        result.unexplained += len(unexplained)
        if note and unexplained:
            adoption.note(workspace, result.scan_id, unexplained)
    for blob_ids in _unseen(workspace, result.started_at, bits):
        result.missing += blob_ids
    result.seen = result.expected - len(result.missing)
    return result


def require_placed(workspace: Workspace, found: Survey) -> None:
    """Raise NotFound if a store that knows no object lists an empty prefix, in a bucket that has objects elsewhere."""
    # guard sync.misplaced: with a mistyped prefix, runs succeed and nobody learns that they see no video
    if not found.listed.objects and not found.expected and (where := misplaced(workspace.bucket)):
        raise NotFound(
            f"{where}. No video was changed. Set REELKEEPER_PREFIX to where the videos are, or / for the whole bucket; "
            "if they are still to come, this ends with the first of them"
        )


def _require_alone(workspace: Workspace, unexplained: Sequence[StoredObject]) -> None:
    for stored in unexplained:
        if stored.key.endswith("/" + IDENTITY):
            nested = workspace.bucket.under(stored.key.removesuffix(IDENTITY))
            check_identity(nested, workspace.deployment_id, may_claim=False)


def confirm_missing(workspace: Workspace, result: Survey) -> None:
    """Send a HEAD for each missing object: some will have been deleted or replaced while the listing ran."""
    confirmed = []
    for start in range(0, len(result.missing), _BATCH):
        with reading(workspace.engine) as session:
            keys = scans.expected_keys(session, result.missing[start : start + _BATCH])
        stored = workspace.bucket.stored(list(keys.values()))
        # guard sync.asked_by_head: an object that the listing missed is marked as lost
        confirmed += [blob_id for blob_id, key in keys.items() if stored[key] is None]
    result.missing = confirmed


def confirm_there(workspace: Workspace, result: Survey) -> None:
    """Send a HEAD for each object that the listing found where its row does not expect it, and leave out missing ones.

    Those that the service has deleted meanwhile are gone, as their events have said by now, and would be live again.
    """
    with reading(workspace.engine) as session:
        keys = scans.keys(session, result.reappeared + result.found)
    stored = workspace.bucket.stored([*keys.values(), *(seen.key for _, seen in result.overwritten)])
    # guard sync.still_there: what the service deleted while a listing ran is served again, and then alarms as lost
    there = {blob_id for blob_id, key in keys.items() if stored[key]}
    result.reappeared = [blob_id for blob_id in result.reappeared if blob_id in there]
    result.found = [blob_id for blob_id in result.found if blob_id in there]
    result.overwritten = [(blob_id, found) for blob_id, seen in result.overwritten if (found := stored[seen.key])]


def compare(workspace: Workspace, page: Sequence[StoredObject], result: Survey, bits: bytearray) -> list[StoredObject]:
    """Add differences between objects and rows to `result`, and the rows to `bits`; return objects without a row."""
    with reading(workspace.engine) as session:
        known = scans.known_objects(session, [stored.key for stored in page])
    unexplained = []
    for stored in page:
        row = known.get(stored.key)
        if row is None:
            unexplained.append(stored)
            continue
        blob_id, state, recorded = row
        if blob_id >> 3 < len(bits):
            bits[blob_id >> 3] |= 1 << (blob_id & 7)
        is_same = recorded.matches(stored)
        if (is_same and state in _PRESENT) or state == BlobState.PENDING:  # the latter's intent decides
            continue
        if not is_same:
            # guard sync.ours_in_doubt: other bytes at a write-once key are mistaken for an upload
            if recorded.is_ours:
                result.doubtful.append((blob_id, stored))
            # guard sync.claimed_in_doubt: bytes that a purge may be deleting become live
            elif state == BlobState.DELETING:
                result.claimed.append(stored.key)
            else:
                result.overwritten.append((blob_id, stored))
        elif state == BlobState.GONE:
            result.reappeared.append(blob_id)
        elif state == BlobState.LOST:
            result.found.append(blob_id)
    result.listed = Counts(
        result.listed.objects + len(page), result.listed.size_bytes + sum(stored.size_bytes for stored in page)
    )
    return unexplained


def _unseen(workspace: Workspace, started_at: datetime, bits: bytearray) -> Iterator[list[int]]:
    with reading(workspace.engine) as session:
        for batch in scans.expected_ids(session, started_at):
            yield [
                blob_id
                for blob_id in batch
                if not (blob_id >> 3 < len(bits) and bits[blob_id >> 3] >> (blob_id & 7) & 1)
            ]
