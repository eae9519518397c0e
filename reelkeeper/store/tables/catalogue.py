"""Tables of users, videos, their bytes and views, and of other objects in the bucket."""

from datetime import date, datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from reelkeeper.model import BlobState, VideoState
from reelkeeper.store.tables.columns import UtcDateTime, counted, index_where, known

_OPEN = "state <> 'gone' AND (state <> 'pending' OR is_ours)"  # rows that describe the object at their key


class User(SQLModel, table=True):
    """An owner of videos. An unknown tier is NULL, and keeps every video."""

    __tablename__ = "users"
    __table_args__ = (index_where("ix_users_present", "id", "erasing_at IS NULL", unique=False),)
    id: str = Field(primary_key=True)
    tier: str | None = None
    created_at: datetime | None = Field(None, sa_type=UtcDateTime)
    erasing_at: datetime | None = Field(None, sa_type=UtcDateTime)  # since when the user is being erased
    pseudonym: str | None = None  # the user's id in the books from then on


class FormerId(SQLModel, table=True):
    """An id that a user had before `users rename`, or still has where an earlier version made it of a name."""

    __tablename__ = "former_ids"
    id: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="users.id", index=True)


class VideoRow(SQLModel, table=True):
    """A video: its public identity, and a pointer to the blob with its present bytes."""

    __tablename__ = "videos"
    __table_args__ = (
        known("state", VideoState),
        sa.Index("ix_videos_user", "user_id"),
        sa.Index("ix_videos_run", "run_id"),
    )
    id: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="users.id")
    blob_id: int | None = Field(
        None, sa_column=sa.Column(sa.BigInteger, sa.ForeignKey("blobs.id", use_alter=True, name="fk_videos_blob"))
    )
    generation: int = 1
    state: str = Field(VideoState.LIVE, index=True)
    created_at: datetime | None = Field(None, sa_type=UtcDateTime)
    last_viewed_at: datetime | None = Field(None, sa_type=UtcDateTime)
    retired_at: datetime | None = Field(None, sa_type=UtcDateTime)
    retire_reason: str | None = None
    run_id: str | None = None  # the run that last changed its state
    refused_recipe: str | None = None
    refused_reason: str | None = None
    refused_at: datetime | None = Field(None, sa_type=UtcDateTime)
    model: str | None = None  # the generator, as named in its job; kept here, as old jobs are deleted
    tag: str | None = None  # given with its job or upload


class Blob(SQLModel, table=True):
    """Bytes that are, or were, stored at a key. A key has at most one row that is not `gone`, and any number of others.

    In addition, a key of the service's may have a `pending` row: the bytes that a swap in place will put there.

    `is_ours`: Reelkeeper made the key and writes it once. Otherwise the service may overwrite it at any time:
    `stored_at` is then the object's LastModified, and new bytes at the key get a new row.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        known("state", BlobState),
        sa.Index("ix_blobs_purge", "state", "purge_after"),
        index_where("one_open_row_a_key", "key", _OPEN),
        sa.Index("ix_blobs_key", "key"),
    )
    id: int | None = Field(None, sa_column=counted())
    video_id: str | None = Field(None, foreign_key="videos.id", index=True)  # NULL: an orphan
    generation: int = 1
    key: str
    is_ours: bool = Field(True, sa_column_kwargs={"default": True})
    state: str
    size_bytes: int = Field(sa_type=sa.BigInteger)
    etag: str | None = None
    sha256: str | None = None
    content_type: str | None = None
    codec: str | None = None
    duration_seconds: float | None = None
    frames: int | None = None
    encoder: str | None = None
    recipe: str | None = None
    quality_mean: float | None = None
    quality_p5: float | None = None
    stored_at: datetime | None = Field(None, sa_type=UtcDateTime)
    retired_at: datetime | None = Field(None, sa_type=UtcDateTime)
    purge_after: datetime | None = Field(None, sa_type=UtcDateTime)
    retire_reason: str | None = None
    run_id: str | None = Field(None, index=True)  # the run that last changed its state
    claimed_at: datetime | None = Field(None, sa_type=UtcDateTime)  # in `deleting`: when a purge claimed it
    claim_token: int | None = None  # in `deleting`: the token of that purge's lease


class Doubt(SQLModel, table=True):
    """An object at a key of ours, written once, that is not as its blob is recorded: nothing deletes it meanwhile.

    `found_*` is what was stored when last seen; NULL: nothing, or, of the SHA-256, not read.
    """

    __tablename__ = "doubts"
    blob_id: int = Field(
        sa_column=sa.Column(sa.BigInteger, sa.ForeignKey("blobs.id"), primary_key=True, autoincrement=False)
    )
    found_bytes: int | None = Field(None, sa_type=sa.BigInteger)
    found_etag: str | None = None
    found_sha256: str | None = None
    since: datetime = Field(sa_type=UtcDateTime)
    seen_at: datetime = Field(sa_type=UtcDateTime)
    settled_at: datetime | None = Field(None, sa_type=UtcDateTime)  # when a person gave its blob up: the object stays


class BlockedBytes(SQLModel, table=True):
    """Bytes that were taken down and are never published again. `sha256` is NULL where they could not be read."""

    __tablename__ = "blocked_bytes"
    __table_args__ = (
        sa.Index("ix_blocked_bytes_sha256", "sha256"),
        sa.Index("ix_blocked_bytes_etag", "etag", "size_bytes"),
    )
    blob_id: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True, autoincrement=False))
    sha256: str | None = None
    etag: str | None = None
    size_bytes: int = Field(sa_type=sa.BigInteger)
    blocked_at: datetime = Field(sa_type=UtcDateTime)


class DailyViews(SQLModel, table=True):
    """Number of views of a video on a UTC day. A missing row is zero only on a day in `view_days`."""

    __tablename__ = "daily_views"
    __table_args__ = {"sqlite_with_rowid": False}  # the largest table, and found by its key alone
    video_id: str = Field(primary_key=True, foreign_key="videos.id")
    day: date = Field(primary_key=True)
    views: int


class ViewDay(SQLModel, table=True):
    """A UTC day whose views are completely recorded."""

    __tablename__ = "view_days"
    day: date = Field(primary_key=True)


class Orphan(SQLModel, table=True):
    """An object under the prefix without a row of `blobs`, and the last scan's verdict on it.

    Objects at our keys are swept only if old and seen in scans a day apart; the service's are never deleted.
    """

    __tablename__ = "orphans"
    __table_args__ = (sa.Index("ix_orphans_scan", "scan_id", "key"),)
    key: str = Field(primary_key=True)
    size_bytes: int = Field(sa_type=sa.BigInteger)
    etag: str
    last_modified: datetime = Field(sa_type=UtcDateTime)
    first_seen_at: datetime = Field(sa_type=UtcDateTime)
    last_seen_at: datetime = Field(sa_type=UtcDateTime)
    scan_id: str | None = None  # the scan of the fields below
    verdict: str | None = None
    user_id: str | None = None
    name_id: str | None = None  # the id made from the video's name
    unique_id: str | None = None  # its id where another user's video has that
    video_id: str | None = None  # the one of both that it would get, or the id of the video that it belongs to
    generation: int | None = None  # of keys in our own format
    pattern: int | None = None  # its index in the setting; -1: from `videos import --keys`
    created_at: datetime | None = Field(None, sa_type=UtcDateTime)  # from CSV or key; NULL: last_modified
    told_at: datetime | None = Field(None, sa_type=UtcDateTime)  # when a run reported it, by exit code 6


class KeyOwner(SQLModel, table=True):
    """The video and the user of a key, imported with `videos import --keys` where the key does not contain them."""

    __tablename__ = "key_owners"
    key: str = Field(primary_key=True)
    user_id: str | None = None
    video_id: str | None = None
    created_at: datetime | None = Field(None, sa_type=UtcDateTime)


class Scan(SQLModel, table=True):
    """One complete listing of the prefix. The last good one says how many objects to expect."""

    __tablename__ = "scans"
    id: str = Field(primary_key=True)
    run_id: str
    started_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime | None = Field(None, sa_type=UtcDateTime)
    objects: int = 0
    size_bytes: int = Field(0, sa_type=sa.BigInteger)
    outcome: str | None = None
