"""Build SQL conditions that must hold at the moment of a change: each compare-and-set has them in its own WHERE.

A plan may be out of date. The UPDATE that acts on it checks again, inside the database, in one statement.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.store.core.engine import one_of
from reelkeeper.store.tables import blobs, doubts, holds, keeps, operations, reservations, uploads, videos

Condition = sa.ColumnElement[bool]
# An S3 server refuses a request that was signed over 15 minutes ago (RequestTimeTooSkewed); our clock may be 5 minutes
# ahead of its (MAX_SKEW_FROM_BUCKET); a purge signs within seconds of its claim. So no request of it is accepted later.
CLAIM_TIMEOUT: Final = timedelta(minutes=25)
DELETED: Final = "deleted by its user"  # reason: views do not delay its purge, and only its own id restores it
DELETED_COUNTED: Final = (
    "deleted by its user, and counted until its bytes are purged"  # the same, and it still uses the quota
)
BY_ITS_USER: Final = (DELETED, DELETED_COUNTED)
TAKEN_DOWN: Final = "taken down"  # reason: it has no grace, and cannot be restored
WITHDRAWN: Final = (*BY_ITS_USER, TAKEN_DOWN)  # reasons: bytes that are found again do not make the video live


def held(
    video_id: sa.ColumnElement[str], user_id: sa.ColumnElement[str], at: datetime, *, legal: bool = False
) -> Condition:
    """Build the condition that a hold on the video or its user is in force at `at`; with `legal`, a legal hold."""
    # guard holds.until: a hold with an end has no effect
    active = sa.and_(holds.c.released_at.is_(None), sa.or_(holds.c.expires_at.is_(None), holds.c.expires_at > at))
    on_it = sa.or_(
        # guard holds.video: a hold on a video has no effect
        sa.and_(holds.c.scope == "video", holds.c.subject == video_id),
        # guard holds.user: a hold on a user has no effect
        sa.and_(holds.c.scope == "user", holds.c.subject == user_id),
    )
    return sa.exists().where(active, on_it, holds.c.is_legal if legal else sa.true())


def kept(video_id: sa.ColumnElement[str], at: datetime) -> Condition:
    """Build the condition that the video is kept on request at `at`."""
    return sa.exists().where(keeps.c.video_id == video_id, keeps.c.until > at)


def counts() -> Condition:
    """Build the condition that the video's present bytes count towards its user's quota."""
    is_counted = sa.and_(videos.c.state == VideoState.RETIRED, videos.c.retire_reason == DELETED_COUNTED)
    return sa.or_(videos.c.state == VideoState.LIVE, is_counted)


def stands_on(session: Session, blob_ids: Sequence[int]) -> Condition:
    """Build the condition that one of these blobs is the video's present bytes: by id, as `blob_id` has no index."""
    of_these = sa.select(blobs.c.video_id).where(one_of(session, blobs.c.id, blob_ids))
    return sa.and_(videos.c.id.in_(of_these), one_of(session, videos.c.blob_id, blob_ids))


def withdrawn() -> Condition:
    """Build the condition that the video was deleted by its user, or taken down: nothing but a restore serves it."""
    return sa.func.coalesce(videos.c.retire_reason, "").in_(WITHDRAWN)


def never_came() -> Condition:
    """Build the condition that the video's first upload failed, and it was not taken down: its id is free."""
    # guard adopt.down_before: the service stores a video that was taken down before its bytes came, and it goes live
    return sa.and_(videos.c.state == VideoState.GONE, videos.c.blob_id.is_(None), ~withdrawn())


def in_operation(video_id: sa.ColumnElement[str]) -> Condition:
    """Build the condition that an operation on the video is open: its blobs are being read or replaced."""
    return sa.exists().where(operations.c.video_id == video_id, operations.c.state == "open")


def in_doubt(blob_id: sa.ColumnElement[int]) -> Condition:
    """Build the condition that the object of this blob is not as recorded, and nobody has settled that."""
    return sa.exists().where(doubts.c.blob_id == blob_id, doubts.c.settled_at.is_(None))


def not_viewed_since(moment: datetime | sa.ColumnElement[datetime]) -> Condition:
    """Build the condition that no view of the video is known after `moment`."""
    return sa.or_(videos.c.last_viewed_at.is_(None), videos.c.last_viewed_at <= moment)


def stands(row: sa.FromClause = blobs) -> Condition:
    """Build the condition that a row describes the bytes stored at its key, not those that a swap in place will put."""
    return sa.or_(row.c.state != BlobState.PENDING, row.c.is_ours)


def has_open_row(key: sa.ColumnElement[str], but_for: sa.ColumnElement[int]) -> Condition:
    """Build the condition that a row other than `but_for` describes the object at `key`: at most one is not `gone`."""
    other = blobs.alias("open_row")
    is_open = sa.and_(other.c.state != BlobState.GONE, stands(other))
    return sa.exists().where(other.c.key == key, other.c.id != but_for, is_open)


def claim_timed_out(at: datetime) -> Condition:
    """Build the condition that a purge claimed the blob, and can no longer delete it by the database clock `at`."""
    return sa.and_(
        blobs.c.state == BlobState.DELETING,
        # guard purge.claim_timeout: a video is restored while the run that claimed it may still delete its bytes
        sa.or_(blobs.c.claimed_at.is_(None), blobs.c.claimed_at <= at - CLAIM_TIMEOUT),
    )


def purgeable(at: datetime, grace: Grace, *, service_keys: bool) -> Condition:
    """Build the condition that the blob's grace is over and nothing keeps it, by the database clock `at`.

    A replaced blob is purged while its video has another blob; a retired video's present blob only if its user
    deleted it, or nobody has viewed the video for one grace; a gone video's where it came back after its purge. A lost
    video keeps all its remaining blobs, unless it was deleted by its user, or taken down.
    Without `service_keys`, objects at the service's keys stay.
    """
    viewed_before = by_owner(at - timedelta(days=grace.days), at - timedelta(days=grace.service_days))
    replaced = sa.and_(
        videos.c.blob_id != blobs.c.id,
        sa.or_(
            # guard purge.lost_video: the remaining bytes of a lost video are deleted
            videos.c.state.in_([VideoState.LIVE, VideoState.RETIRED, VideoState.GONE]),
            # guard purge.withdrawn_lost: what a user deleted stays for ever, as the video's present bytes are lost
            withdrawn(),
        ),
    )
    unwanted = sa.and_(
        videos.c.blob_id == blobs.c.id,
        # guard purge.retired_video: a live video's present bytes are deleted
        videos.c.state == VideoState.RETIRED,
        # guard purge.viewed: a retired video is purged that was viewed within its grace
        sa.or_(videos.c.retire_reason.in_([*BY_ITS_USER, TAKEN_DOWN]), not_viewed_since(viewed_before)),
    )
    # guard purge.came_back: bytes that came back after their purge, or takedown, stay stored and paid for ever
    came_back = sa.and_(videos.c.blob_id == blobs.c.id, videos.c.state == VideoState.GONE)
    abandoned = videos.c.blob_id.is_(None)  # a first upload that was never published
    allowed = sa.exists().where(
        videos.c.id == blobs.c.video_id,
        sa.or_(replaced, unwanted, came_back, abandoned),
        # guard purge.held: a held video is purged after its grace
        ~held(videos.c.id, videos.c.user_id, at),
        # guard purge.in_operation: the source of a swap under way is deleted
        ~in_operation(videos.c.id),
        # guard purge.successor_in_doubt: each purge freezes everything again for a doubt that a person knows of
        ~in_doubt(videos.c.blob_id),
    )
    promised = reservations.c.id == uploads.c.reservation_id
    of_held = sa.select(uploads.c.blob_id).where(promised, held(uploads.c.video_id, reservations.c.user_id, at))
    return sa.and_(
        # guard purge.retired_only: live, pending or lost bytes are deleted
        blobs.c.state == BlobState.RETIRED,
        # guard purge.grace_over: bytes are deleted within their grace
        blobs.c.purge_after <= at,
        # guard purge.service_keys: the service's keys are purged in a bucket that has not passed the contract
        sa.true() if service_keys else blobs.c.is_ours,
        # guard purge.in_doubt: each purge freezes everything again for a doubt that a person knows of
        ~in_doubt(blobs.c.id),
        # guard purge.held_upload: what a held user put and never completed, which is no video, is purged
        sa.or_(sa.and_(blobs.c.video_id.is_(None), blobs.c.id.not_in(of_held)), allowed),
    )


_Key = TypeVar("_Key", str, sa.ColumnElement[str])


def replaced_by(key: _Key) -> _Key:
    """Return the reason for retiring bytes that those at `key` replaced; for a column, in SQL."""
    return "replaced by " + key


def replaced_in_place(key: _Key, generation: _Key) -> _Key:
    """Return the reason for retiring bytes that were copied aside before this generation replaced them at `key`."""
    return replaced_by(key) + " in place, generation " + generation


def retired(at: datetime, grace: Grace, reason: str | sa.ScalarSelect[str | None]) -> dict[str, Any]:
    """Return the values of an UPDATE that retires blobs at `at`, by the database's clock."""
    return {
        "state": BlobState.RETIRED,
        "retired_at": at,
        "purge_after": after_grace(at, grace),
        "retire_reason": reason,
    }


def after_grace(at: datetime, grace: Grace) -> sa.ColumnElement[datetime]:
    """Build the end of a grace that begins at `at`: it depends on whose key the blob has."""
    return by_owner(at + timedelta(days=grace.days), at + timedelta(days=grace.service_days))


def by_owner(ours: datetime, the_services: datetime) -> sa.ColumnElement[datetime]:
    """Build the choice of two times by whether the blob's key is ours or the service's."""
    typed = blobs.c.purge_after.type
    # guard purge.service_grace: bytes at the service's keys are deleted after the shorter grace
    return sa.case((blobs.c.is_ours, sa.literal(ours, typed)), else_=sa.literal(the_services, typed))
