"""The tables. Rows are not facts: nothing outside `store/` and `operations/` holds one.

Naming: a `*_at` is an aware UTC datetime, a `*_bytes` counts bytes, a `*_microusd` millionths of a dollar.
States are text with a CHECK, so that a person with a SQL shell can read them.
"""

from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlmodel import Field, SQLModel

from reelkeeper.model import BlobState, VideoState


class UtcDateTime(sa.TypeDecorator[datetime]):
    """An aware UTC datetime: TIMESTAMPTZ on PostgreSQL, ISO text on SQLite. A naive value is a ValueError."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive values; hand SQLite naive UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC).replace(tzinfo=None) if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


def _states(column: str, states: type[VideoState] | type[BlobState]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{state}'" for state in states)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=f"known_{column}")


class Deployment(SQLModel, table=True):
    """The one row that says which deployment this store is, and whether changes are frozen."""

    __tablename__ = "deployment"
    id: str = Field(primary_key=True)
    created_at: datetime = Field(sa_type=UtcDateTime)
    frozen_at: datetime | None = Field(None, sa_type=UtcDateTime)
    frozen_by: str | None = None
    frozen_reason: str | None = None
    audit_events: int = 0  # length and head of the audit chain: a cut-off tail is noticed
    audit_head: str = ""


class User(SQLModel, table=True):
    """Somebody who owns videos. An unknown tier is NULL, and keeps everything."""

    __tablename__ = "users"
    id: str = Field(primary_key=True)
    tier: str | None = None
    created_at: datetime | None = Field(None, sa_type=UtcDateTime)


class VideoRow(SQLModel, table=True):
    """A video: its public identity, and a pointer to the blob that is its bytes now."""

    __tablename__ = "videos"
    __table_args__ = (
        _states("state", VideoState),
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


class Blob(SQLModel, table=True):
    """One object, written once at a key of its own. Its row outlives it."""

    __tablename__ = "blobs"
    __table_args__ = (_states("state", BlobState), sa.Index("ix_blobs_purge", "state", "purge_after"))
    id: int | None = Field(
        None,
        sa_column=sa.Column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    )
    video_id: str | None = Field(None, foreign_key="videos.id", index=True)  # NULL: an orphan
    generation: int = 1
    key: str = Field(unique=True)
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


class DailyViews(SQLModel, table=True):
    """How often a video was viewed on a UTC day. A missing row is zero only on a day in `view_days`."""

    __tablename__ = "daily_views"
    video_id: str = Field(primary_key=True, foreign_key="videos.id")
    day: date = Field(primary_key=True)
    views: int


class ViewDay(SQLModel, table=True):
    """A UTC day whose views are completely recorded."""

    __tablename__ = "view_days"
    day: date = Field(primary_key=True)


class Operation(SQLModel, table=True):
    """A write-ahead intent: what a run is about to do outside the store, so that a later run can finish or undo it."""

    __tablename__ = "operations"
    __table_args__ = (
        sa.CheckConstraint("state IN ('open', 'done', 'abandoned')", name="known_operation_state"),
        sa.Index(
            "one_open_operation_per_video",
            "video_id",
            unique=True,
            sqlite_where=sa.text("state = 'open'"),
            postgresql_where=sa.text("state = 'open'"),
        ),
    )
    id: str = Field(primary_key=True)
    kind: str  # swap, restore
    state: str = "open"
    video_id: str = Field(foreign_key="videos.id")
    old_blob_id: int | None = Field(None, sa_type=sa.BigInteger)
    new_blob_id: int | None = Field(None, sa_type=sa.BigInteger)
    generation: int
    run_id: str
    lease_token: int
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON)
    outcome: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class PlanRow(SQLModel, table=True):
    """A plan, saved before anything is done, and applied at most once."""

    __tablename__ = "plans"
    __table_args__ = (
        sa.CheckConstraint("state IN ('drawing', 'ready', 'applied', 'refused')", name="known_plan_state"),
    )
    id: str = Field(primary_key=True)
    flow: str = Field(index=True)
    state: str = "drawing"
    as_of: datetime = Field(sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)
    applied_at: datetime | None = Field(None, sa_type=UtcDateTime)
    run_id: str
    policy: dict[str, Any] = Field(sa_type=sa.JSON)
    policy_hash: str
    population: int = 0
    population_bytes: int = Field(0, sa_type=sa.BigInteger)
    kept: dict[str, int] = Field(default_factory=dict, sa_type=sa.JSON)
    refusal: str | None = None


class VerdictRow(SQLModel, table=True):
    """One verdict of a plan that is not "keep", with what became of it. Kept videos are counted in the plan."""

    __tablename__ = "verdicts"
    plan_id: str = Field(primary_key=True, foreign_key="plans.id")
    blob_id: int = Field(primary_key=True, sa_type=sa.BigInteger)
    video_id: str | None = None
    user_id: str | None = None
    generation: int
    action: str
    rule: str
    reason: str
    size_bytes: int = Field(sa_type=sa.BigInteger)
    saving_microusd: int | None = Field(None, sa_type=sa.BigInteger)  # per month, at the marginal price
    outcome: str | None = None
    outcome_reason: str | None = None
    after_bytes: int | None = Field(None, sa_type=sa.BigInteger)


class Lease(SQLModel, table=True):
    """The right to work on something until `expires_at`. `token` grows at each grant and fences off earlier holders."""

    __tablename__ = "leases"
    name: str = Field(primary_key=True)
    holder: str
    token: int
    expires_at: datetime = Field(sa_type=UtcDateTime)


class Hold(SQLModel, table=True):
    """A person's word that a user's videos, or one video, stay. Beats every rule."""

    __tablename__ = "holds"
    __table_args__ = (
        sa.CheckConstraint("scope IN ('user', 'video')", name="known_scope"),
        sa.Index("ix_holds_subject", "scope", "subject"),
    )
    id: str = Field(primary_key=True)
    scope: str
    subject: str
    reason: str
    author: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(None, sa_type=UtcDateTime)
    released_at: datetime | None = Field(None, sa_type=UtcDateTime)


class Orphan(SQLModel, table=True):
    """An object under the prefix that no row explains. Swept only when old and seen in scans a day apart."""

    __tablename__ = "orphans"
    key: str = Field(primary_key=True)
    size_bytes: int = Field(sa_type=sa.BigInteger)
    etag: str
    last_modified: datetime = Field(sa_type=UtcDateTime)
    first_seen_at: datetime = Field(sa_type=UtcDateTime)
    last_seen_at: datetime = Field(sa_type=UtcDateTime)


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


class AuditEvent(SQLModel, table=True):
    """One line of the append-only, hash-chained record of everything that was done to a customer's data."""

    __tablename__ = "audit_events"
    id: int = Field(sa_column=sa.Column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True))
    at: datetime = Field(sa_type=UtcDateTime)
    event: str
    run_id: str
    video_id: str | None = Field(None, index=True)
    blob_id: int | None = Field(None, sa_type=sa.BigInteger)
    user_id: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON)
    previous: str
    digest: str


# The same tables for set-based statements: typed columns, no rows.
_TABLES = SQLModel.metadata.tables
deployment = _TABLES["deployment"]
users = _TABLES["users"]
videos = _TABLES["videos"]
blobs = _TABLES["blobs"]
daily_views = _TABLES["daily_views"]
view_days = _TABLES["view_days"]
operations = _TABLES["operations"]
plans = _TABLES["plans"]
verdicts = _TABLES["verdicts"]
leases = _TABLES["leases"]
holds = _TABLES["holds"]
orphans = _TABLES["orphans"]
scans = _TABLES["scans"]
audit_events = _TABLES["audit_events"]
