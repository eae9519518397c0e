"""Take in a video that somebody puts into the bucket by a presigned URL: promise, put, and publish once verified.

    begin --> the caller's PUT --> complete --> live
      |                              '-------> refused: its bytes wait out a grace, its promise is given back
      '---> expired: so does whatever was put

`begin` reserves the bytes and writes a pending blob with its size and MD5. Both are signed into the URL, and so is
If-None-Match, so what can come to stand at that key is those bytes, once, or nothing. `operations/complete` goes on.
"""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.adapters.s3.keys import blob_key
from reelkeeper.errors import InputRefused, KeyReused, NotFound
from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.money import ReservationState
from reelkeeper.operations.billing import quota
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.operations.videos.upload import CONTENT_TYPES
from reelkeeper.rules.billing.credits import fingerprint, require_key
from reelkeeper.rules.billing.quota import QuotaPolicy
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.tables import blobs, reservations, uploads, users, videos

PATIENCE_SECONDS: Final = 3_600  # for completing after the URL has ended


class Announced(NamedTuple):
    """What somebody wants to put. `md5` is its MD5 in hex."""

    user_id: str
    video_id: str
    size_bytes: int
    md5: str
    extension: str
    created_at: datetime | None = None  # None: now


class Upload(NamedTuple):
    """An upload as it stands. `state` is its reservation's: open, settled (the video is live), released, expired."""

    id: str
    request_sha256: str
    user_id: str
    video_id: str
    video_created_at: datetime
    state: str
    refusal: str | None
    reservation_id: str
    blob_id: int
    key: str
    size_bytes: int
    md5: str
    content_type: str
    url_until: datetime


class Ticket(NamedTuple):
    """How to put the bytes: PUT them to `url`, with exactly these `headers`."""

    url: str
    headers: dict[str, str]


_WHOLE = sa.select(
    uploads.c.id,
    uploads.c.request_sha256,
    reservations.c.user_id,
    uploads.c.video_id,
    uploads.c.video_created_at,
    reservations.c.state,
    uploads.c.refusal,
    uploads.c.reservation_id,
    uploads.c.blob_id,
    blobs.c.key,
    blobs.c.size_bytes,
    blobs.c.etag,
    blobs.c.content_type,
    uploads.c.url_until,
).select_from(
    uploads.join(reservations, reservations.c.id == uploads.c.reservation_id).join(
        blobs, blobs.c.id == uploads.c.blob_id
    )
)


def begin(
    depot: Depot, wanted: Announced, key: str, *, url_seconds: int, policy: QuotaPolicy = QuotaPolicy()
) -> tuple[Upload, Ticket | None]:
    """Reserve the bytes and sign a URL to put them. The same `key` again gives the same upload, with a URL while open.

    Raises QuotaExceeded, KeyReused, InputRefused for a video that is there already, NotFound for a user who is not,
    KeyRefused, Frozen.
    """
    require_key(key)
    upload_id = hashlib.sha256(f"{wanted.user_id}\n{key}".encode()).hexdigest()[:32]
    made_at = wanted.created_at.isoformat() if wanted.created_at else None
    sha256 = fingerprint(**{**wanted._asdict(), "created_at": made_at})
    with transaction(depot.engine, "receive.begin") as session:
        require_permission(session)
        before = _find(session, upload_id)
        if before is None:
            before = _announce(session, depot, wanted, upload_id, sha256, url_seconds, policy)
        at = now(session)
    if before.request_sha256 != sha256:
        raise KeyReused(
            f"idempotency key {key!r} of user {wanted.user_id!r} began the upload of video {before.video_id!r} "
            "with other parameters; nothing was reserved. Use a new key for a new upload"
        )
    left = int((before.url_until - at).total_seconds())
    return before, _ticket(depot, before, left) if before.state == ReservationState.OPEN and left > 0 else None


def find(depot: Depot, upload_id: str) -> Upload:
    """Say how an upload stands. Raises NotFound."""
    with reading(depot.engine) as session:
        return _require(session, upload_id)


def let_go(session: Session, reservation_ids: Sequence[str]) -> None:
    """End the blobs of uploads whose reservations have expired: their URLs have, so nothing can be put any more.

    Whether something was put is not known here. A row that is gone expects nothing, so that uploads which were begun
    and never put look like no loss; and `sync_catalog` retires what it finds stored of such a row.
    """
    theirs = sa.select(uploads.c.blob_id).where(uploads.c.reservation_id.in_(reservation_ids))
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id.in_(theirs), blobs.c.state == BlobState.PENDING)
        .values(state=BlobState.GONE, retire_reason="an upload that was not completed")
    )


def _find(session: Session, upload_id: str) -> Upload | None:
    row = session.execute(_WHOLE.where(uploads.c.id == upload_id)).one_or_none()
    return Upload._make(row) if row else None


def _require(session: Session, upload_id: str) -> Upload:
    upload = _find(session, upload_id)
    if upload is None:
        raise NotFound(f"no upload {upload_id!r}")
    return upload


def _announce(
    session: Session,
    depot: Depot,
    wanted: Announced,
    upload_id: str,
    sha256: str,
    url_seconds: int,
    policy: QuotaPolicy,
) -> Upload:
    _require_new(session, wanted)
    key = blob_key(depot.bucket.prefix, wanted.user_id, wanted.video_id, 1, wanted.extension)
    at = now(session)
    promise = quota.reserve(
        session,
        wanted.user_id,
        wanted.size_bytes,
        f"upload/{upload_id}",
        lasting_seconds=url_seconds + PATIENCE_SECONDS,
        policy=policy,
    )
    blob_id = session.execute(
        sa.insert(blobs)
        .values(
            generation=1,
            key=key,
            state=BlobState.PENDING,
            size_bytes=wanted.size_bytes,
            etag=wanted.md5,
            content_type=CONTENT_TYPES[wanted.extension],
            stored_at=at,
        )
        .returning(blobs.c.id)
    ).scalar_one()
    session.execute(
        sa.insert(uploads).values(
            id=upload_id,
            request_sha256=sha256,
            video_id=wanted.video_id,
            video_created_at=wanted.created_at or at,
            reservation_id=promise.id,
            blob_id=blob_id,
            url_until=at + timedelta(seconds=url_seconds),
        )
    )
    return _require(session, upload_id)


def _require_new(session: Session, wanted: Announced) -> None:
    if not session.execute(sa.select(users.c.id).where(users.c.id == wanted.user_id)).scalar():
        raise NotFound(f"no user {wanted.user_id!r} in the catalogue; nothing was reserved")
    row = session.execute(
        sa.select(videos.c.state, videos.c.blob_id, videos.c.user_id).where(videos.c.id == wanted.video_id)
    ).one_or_none()
    if row and not (row.state == VideoState.GONE and row.blob_id is None and row.user_id == wanted.user_id):
        raise InputRefused(
            f"video {wanted.video_id!r} is in the catalogue already; nothing was reserved. Give a new video a new id"
        )


def _ticket(depot: Depot, upload: Upload, seconds: int) -> Ticket:
    md5 = b64encode(bytes.fromhex(upload.md5)).decode()
    url = depot.bucket.presigned(
        "put_object",
        upload.key,
        seconds,
        ContentLength=upload.size_bytes,
        ContentMD5=md5,
        ContentType=upload.content_type,
        IfNoneMatch="*",
    )
    headers = {
        "Content-Length": str(upload.size_bytes),
        "Content-MD5": md5,
        "Content-Type": upload.content_type,
        "If-None-Match": "*",
    }
    return Ticket(url, headers)
