"""Purge: the second half of a deletion, and the only code that deletes bytes.

    retired --claim, in one UPDATE that asks everything again--> deleting --check, delete--> gone

`deleting` is the point of no return, and is committed before the first byte goes. Killed anywhere, the next run finds
the rows in `deleting` and finishes them. Keys are written once, so a late second delete of a key can hit nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.failpoints import effect
from reelkeeper.model import BlobState, Outcome, StoredObject, VideoState
from reelkeeper.operations.depot import Depot
from reelkeeper.operations.freeze import freeze, require_permission
from reelkeeper.store import conditions
from reelkeeper.store.audit import Event, append
from reelkeeper.store.engine import now, reading, transaction
from reelkeeper.store.leases import Grant
from reelkeeper.store.plans import record_outcomes
from reelkeeper.store.tables import blobs, verdicts, videos


@dataclass(frozen=True, slots=True)
class Doomed:
    """A blob in `deleting`, and what must still be stored before its bytes may go."""

    blob_id: int
    video_id: str | None
    user_id: str | None
    key: str
    size_bytes: int
    etag: str | None
    successor_key: str | None  # the blob that a live video now stands on
    successor_bytes: int | None
    successor_etag: str | None


@dataclass(slots=True)
class _Checked:
    delete: list[Doomed] = field(default_factory=list)
    already_gone: list[Doomed] = field(default_factory=list)
    doubtful: list[tuple[Doomed, str]] = field(default_factory=list)


def unfinished(depot: Depot) -> list[int]:
    """Blobs that an earlier run left in `deleting`."""
    with reading(depot.engine) as session:
        return list(session.execute(sa.select(blobs.c.id).where(blobs.c.state == BlobState.DELETING)).scalars())


def purge(
    depot: Depot, plan_id: str, blob_ids: Sequence[int], *, grant: Grant, run_id: str, grace_days: int
) -> list[Outcome]:
    """Delete the bytes of those of `blob_ids` that may still go; the others are skipped, with the reason.

    A batch is what one DeleteObjects takes, 1,000 keys. A blob whose object is not what the catalogue says, or whose
    video's present bytes are not stored, goes back to `retired`, and the deployment is frozen. Raises Frozen or
    LeaseLost before the first change.
    """
    doomed = _claim(depot, plan_id, blob_ids, grant=grant, run_id=run_id, grace_days=grace_days)
    checked = _check(doomed, depot.bucket.stored(_keys_to_check(doomed)))
    with effect("purge.delete"):
        failures = depot.bucket.delete([blob.key for blob in checked.delete])
    claimed = {blob.blob_id for blob in doomed}
    kept = "since the plan it was viewed, held or restored"
    outcomes = [Outcome("", "skipped", kept, blob_id=blob_id) for blob_id in blob_ids if blob_id not in claimed]
    outcomes += _settle(depot, plan_id, checked, failures, skipped=outcomes, run_id=run_id, grace_days=grace_days)
    if checked.doubtful:
        blob, why = checked.doubtful[0]
        freeze(depot.engine, by=run_id, reason=f"{len(checked.doubtful)} blobs in doubt, first {blob.key}: {why}")
    return outcomes


def _claim(
    depot: Depot, plan_id: str, blob_ids: Sequence[int], *, grant: Grant, run_id: str, grace_days: int
) -> list[Doomed]:
    with transaction(depot.engine, "purge.claim") as session:
        require_permission(session, grant)
        at = now(session)
        planned = sa.exists().where(
            verdicts.c.plan_id == plan_id, verdicts.c.blob_id == blobs.c.id, verdicts.c.action == "purge"
        )
        session.execute(
            sa.update(blobs)
            .where(
                blobs.c.id.in_(blob_ids),
                planned,
                conditions.purgeable(at, at - timedelta(days=grace_days)),
            )
            .values(state=BlobState.DELETING, run_id=run_id)
        )
        return _doomed(session, blob_ids)


def _doomed(session: Session, blob_ids: Sequence[int]) -> list[Doomed]:
    successor = blobs.alias("successor")
    rows = session.execute(
        sa.select(
            blobs.c.id,
            blobs.c.video_id,
            videos.c.user_id,
            blobs.c.key,
            blobs.c.size_bytes,
            blobs.c.etag,
            successor.c.key,
            successor.c.size_bytes,
            successor.c.etag,
        )
        .select_from(
            blobs.outerjoin(videos, videos.c.id == blobs.c.video_id).outerjoin(
                successor,
                sa.and_(
                    successor.c.id == videos.c.blob_id, successor.c.id != blobs.c.id, videos.c.state == VideoState.LIVE
                ),
            )
        )
        .where(blobs.c.id.in_(blob_ids), blobs.c.state == BlobState.DELETING)
        .order_by(blobs.c.key)
    )
    return [Doomed(*row) for row in rows]


def _keys_to_check(doomed: Sequence[Doomed]) -> list[str]:
    return [blob.key for blob in doomed] + [blob.successor_key for blob in doomed if blob.successor_key]


def _check(doomed: Sequence[Doomed], stored: dict[str, StoredObject | None]) -> _Checked:
    checked = _Checked()
    for blob in doomed:
        found = stored[blob.key]
        if blob.successor_key and not _same(stored[blob.successor_key], blob.successor_bytes, blob.successor_etag):
            checked.doubtful.append(
                (blob, f"the video's present bytes, {blob.successor_key}, are not stored as recorded")
            )
        elif found is None:
            checked.already_gone.append(blob)
        elif not _same(found, blob.size_bytes, blob.etag):
            checked.doubtful.append(
                (
                    blob,
                    f"stored {found.size_bytes} bytes, ETag {found.etag}; recorded {blob.size_bytes}, {blob.etag}",
                )
            )
        else:
            checked.delete.append(blob)
    return checked


def _same(found: StoredObject | None, size_bytes: int | None, etag: str | None) -> bool:
    return found is not None and found.size_bytes == size_bytes and found.etag == etag


def _settle(
    depot: Depot,
    plan_id: str,
    checked: _Checked,
    failures: dict[str, str],
    *,
    skipped: list[Outcome],
    run_id: str,
    grace_days: int,
) -> list[Outcome]:
    deleted = [blob for blob in checked.delete if blob.key not in failures]
    gone = deleted + checked.already_gone
    outcomes = (
        [_outcome(blob, "purged", "its grace is over") for blob in deleted]
        + [_outcome(blob, "purged", "its object was already gone") for blob in checked.already_gone]
        + [_outcome(blob, "failed", failures[blob.key]) for blob in checked.delete if blob.key in failures]
        + [_outcome(blob, "failed", why) for blob, why in checked.doubtful]
    )
    with transaction(depot.engine, "purge.settle") as session:
        settled = _mark_gone(session, [blob.blob_id for blob in gone], run_id)
        _take_back(session, [blob.blob_id for blob, _ in checked.doubtful], grace_days)
        record_outcomes(session, plan_id, skipped + outcomes)
        append(
            session,
            [_event("purge", blob, run_id, bytes=blob.size_bytes) for blob in gone if blob.blob_id in settled]
            + [_event("doubt", blob, run_id, why=why) for blob, why in checked.doubtful],
        )
    return outcomes


def _mark_gone(session: Session, blob_ids: Sequence[int], run_id: str) -> set[int]:
    settled = set(
        session.execute(
            sa.update(blobs)
            .where(blobs.c.id.in_(blob_ids), blobs.c.state == BlobState.DELETING)
            .values(state=BlobState.GONE)
            .returning(blobs.c.id)
        ).scalars()
    )
    session.execute(
        sa.update(videos)
        .where(videos.c.blob_id.in_(settled), videos.c.state == VideoState.RETIRED)
        .values(state=VideoState.GONE, run_id=run_id)
    )
    return settled


def _take_back(session: Session, blob_ids: Sequence[int], grace_days: int) -> None:
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id.in_(blob_ids), blobs.c.state == BlobState.DELETING)
        .values(state=BlobState.RETIRED, purge_after=now(session) + timedelta(days=grace_days))
    )


def _event(event: str, blob: Doomed, run_id: str, **detail: object) -> Event:
    return Event(event, run_id, blob.video_id, blob.blob_id, blob.user_id, {"key": blob.key, **detail})


def _outcome(blob: Doomed, action: str, reason: str) -> Outcome:
    after = 0 if action == "purged" else blob.size_bytes
    return Outcome(blob.video_id or blob.key, action, reason, blob.size_bytes, after, blob.blob_id)
