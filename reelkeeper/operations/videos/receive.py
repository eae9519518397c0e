"""Receive a video that a client puts into the bucket by a presigned URL: reserve, put, verify, publish.

    begin --> the caller's PUT --> complete --> live
      |                              '-------> refused: its bytes wait out a grace, its reservation is released
      '---> expired: any bytes that were put wait out a grace, too

`begin` reserves the bytes and writes a pending blob with its size and MD5. Both are signed into the URL, and so is
If-None-Match, so only those bytes can be stored at that key, once. `operations/videos/complete` continues.
"""

from base64 import b64encode
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from reelkeeper.adapters.s3.keys import blob_key
from reelkeeper.errors import InputRefused, KeyReused, NotFound
from reelkeeper.model.money import ReservationState
from reelkeeper.model.requests import Upload, made_at
from reelkeeper.operations.billing import quota
from reelkeeper.operations.core import replays
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos.upload import CONTENT_TYPES
from reelkeeper.rules.billing.credits import fingerprint, own_key, require_key
from reelkeeper.store import Session
from reelkeeper.store.core import former_ids
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.videos import uploads
from reelkeeper.store.videos.videos import is_user

PATIENCE_SECONDS: Final = 3_600  # to complete an upload after its URL has expired


class Announced(NamedTuple):
    """A file to be put. `md5` is its MD5 in hex."""

    user_id: str
    video_id: str
    size_bytes: int
    md5: str
    extension: str
    created_at: datetime | None = None  # None: now
    tag: str | None = None  # for segments of the lifecycle


class Ticket(NamedTuple):
    """Address of an upload: PUT the bytes to `url`, with exactly these `headers`."""

    url: str
    headers: dict[str, str]


def begin(workspace: Workspace, wanted: Announced, key: str, *, url_seconds: int) -> tuple[Upload, Ticket | None]:
    """Reserve the bytes and sign a URL to put them. The same `key` returns the same upload, with a URL while open.

    Raises QuotaExceeded, KeyReused, InputRefused for a video that exists already or a time that was never set, NotFound
    for an unknown user, KeyRefused, Frozen.
    """
    require_key(key)
    with transaction(workspace.engine, "receive.begin") as session:
        require_permission(session)
        # guard upload_url.former_keys: an upload that is repeated after its user was renamed is made twice, or refused
        names = (wanted.user_id, *former_ids.of_user(session, wanted.user_id))
        found = ((name, uploads.find(session, own_key(name, key))) for name in names)
        named, known = next(((name, upload) for name, upload in found if upload), (wanted.user_id, None))
        sha256 = _fingerprint(wanted._replace(user_id=named))
        before = known or _announce(session, workspace, wanted, own_key(named, key), sha256, url_seconds)
        at = now(session)
    # guard upload_url.key_reused: an upload gets the URL of another upload
    if before.request_sha256 != sha256:
        raise KeyReused(
            f"idempotency key {key!r} of user {wanted.user_id!r} was used for the upload of video "
            f"{before.video_id!r} with other parameters; nothing was reserved. Use a new key for a new upload"
        )
    if known:
        replays.note()
    left = int((before.url_until - at).total_seconds())
    return before, _ticket(workspace, before, left) if before.state == ReservationState.OPEN and left > 0 else None


def _fingerprint(wanted: Announced) -> str:
    made_at = wanted.created_at.isoformat() if wanted.created_at else None
    # Without the tag, which does not concern the bytes; the first one stays.
    about = {name: value for name, value in wanted._asdict().items() if name != "tag"}
    return fingerprint(**{**about, "created_at": made_at})


def find(workspace: Workspace, upload_id: str) -> Upload:
    """Read the state of an upload. Raises NotFound."""
    with reading(workspace.engine) as session:
        upload = uploads.find(session, upload_id)
    if upload is None:
        raise NotFound(f"no upload {upload_id!r}")
    return upload


def _announce(
    session: Session, workspace: Workspace, wanted: Announced, upload_id: str, sha256: str, url_seconds: int
) -> Upload:
    _require_new(session, wanted)
    at = now(session)
    try:
        created_at = made_at(wanted.created_at or at)
    except ValueError as error:
        raise InputRefused(f"created_at {error}; nothing was reserved") from None
    promise = quota.reserve(
        session,
        wanted.user_id,
        wanted.size_bytes,
        f"upload/{upload_id}",
        lasting_seconds=url_seconds + PATIENCE_SECONDS,
    )
    upload = Upload(
        id=upload_id,
        request_sha256=sha256,
        user_id=wanted.user_id,
        video_id=wanted.video_id,
        # guard upload_url.clock: a video of a caller whose clock is ahead is made in the future, and kept for too long
        video_created_at=min(created_at, at),
        state=promise.state,
        refusal=None,
        reservation_id=promise.id,
        key=blob_key(workspace.bucket.prefix, wanted.user_id, wanted.video_id, 1, wanted.extension),
        size_bytes=wanted.size_bytes,
        md5=wanted.md5,
        content_type=CONTENT_TYPES[wanted.extension],
        url_until=at + timedelta(seconds=url_seconds),
        tag=wanted.tag,
    )
    return uploads.begin(session, upload)


def _require_new(session: Session, wanted: Announced) -> None:
    if not is_user(session, wanted.user_id):
        raise NotFound(f"no user {wanted.user_id!r} in the catalogue; nothing was reserved")
    known = uploads.current(session, wanted.video_id, locked=False)
    # guard upload_url.new_video: an upload replaces an existing video, even another user's
    if known and not (known.never_came and known.user_id == wanted.user_id):
        raise InputRefused(
            f"video {wanted.video_id!r} is already in the catalogue; nothing was reserved. Use a new id for a new video"
        )


def _ticket(workspace: Workspace, upload: Upload, seconds: int) -> Ticket:
    md5 = b64encode(bytes.fromhex(upload.md5)).decode()
    url = workspace.bucket.presigned(
        "put_object",
        upload.key,
        seconds,
        # guard upload_url.length: more bytes are put than were reserved
        ContentLength=upload.size_bytes,
        # guard upload_url.md5: bytes other than the announced ones are put
        ContentMD5=md5,
        # guard upload_url.type: a page with a script is put where browsers expect a video
        ContentType=upload.content_type,
        # guard upload_url.once: a client uses the URL again, and replaces the verified video
        IfNoneMatch="*",
    )
    headers = {
        "Content-Length": str(upload.size_bytes),
        "Content-MD5": md5,
        "Content-Type": upload.content_type,
        "If-None-Match": "*",
    }
    return Ticket(url, headers)
