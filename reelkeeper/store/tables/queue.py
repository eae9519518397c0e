"""Tables of jobs, the cache of their videos, API tokens, and the state of control loops."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from reelkeeper.model.jobs import IN_FLIGHT, JobState, VendorErasure
from reelkeeper.store.tables.columns import UtcDateTime, index_where, known

_WAITS = f"(leader_id IS NULL AND state = '{JobState.QUEUED}') IS"  # a test that no other index can serve
_SENT = f"(state = '{JobState.QUEUED}' AND provider_key IS NOT NULL) IS"
_LEADS = f"leader_id IS NULL AND state IN ({', '.join(repr(str(state)) for state in IN_FLIGHT)})"


class JobRow(SQLModel, table=True):
    """A requested generation. A job whose `leader_id` is set waits for that job's video."""

    __tablename__ = "jobs"
    __table_args__ = (
        known("state", JobState),
        sa.UniqueConstraint("user_id", "client_key", name="one_job_per_client_key"),
        index_where("one_leader_per_request", "cache_key", _LEADS),
        sa.Index("ix_jobs_due", "state", "due_at"),
        sa.Index("ix_jobs_age", "state", "created_at"),
        sa.Index("ix_jobs_user", "user_id", "state", "created_at"),
        sa.Index("ix_jobs_finished", "finished_at"),
        *(
            sa.Index(
                name,
                *columns,
                sqlite_where=sa.text(f"{where} 1"),  # a constant from above
                postgresql_where=sa.text(f"{where} TRUE"),  # likewise
            )
            for name, where, *columns in (
                ("ix_jobs_line", _WAITS, "line", "score", "created_at", "id"),
                ("ix_jobs_line_age", _WAITS, "line", "created_at", "id"),
                ("ix_jobs_user_age", _WAITS, "user_id", "created_at", "id"),
                ("ix_jobs_sent", _SENT, "due_at", "id"),
            )
        ),
    )
    id: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="users.id")
    client_key: str  # the caller's idempotency key
    request_sha256: str
    cache_key: str
    leader_id: str | None = Field(None, foreign_key="jobs.id", index=True)
    state: str = JobState.QUEUED
    tier: str | None = None  # at admission
    model: str
    request: dict[str, Any] = Field(sa_type=sa.JSON)
    complexity: float
    estimate_seconds: float
    price_microusd: int = Field(sa_type=sa.BigInteger)
    price_book: str
    policy_version: int = Field(
        0, sa_column_kwargs={"server_default": "0"}
    )  # of its promises: the price of a hit, the duration of its holds
    quoted_cost_microusd: int | None = Field(None, sa_type=sa.BigInteger)  # our expected cost
    hold_id: str | None = None
    reservation_id: str | None = None
    reserved_bytes: int = Field(0, sa_type=sa.BigInteger)
    attempts: int = 0
    due_at: datetime = Field(sa_type=UtcDateTime)  # not claimed before
    claimed_by: str | None = None
    lease_token: int = 0  # grows with each claim, and fences off earlier ones
    lease_until: datetime | None = Field(None, sa_type=UtcDateTime)
    lane: str | None = None  # the provider that is to make it, as it was admitted
    provider: str | None = None
    provider_key: str | None = Field(None, unique=True)  # written before the request is sent, for lookups
    provider_job_id: str | None = None
    line: str | None = None  # of a waiting job: its order, provider and model; None: it has no score yet
    score: float = Field(0.0, sa_column_kwargs={"server_default": "0"})  # its rank there, lower goes first
    place: int = Field(0, sa_column_kwargs={"server_default": "0"})  # jobs of its user ahead, when it was scored
    progress: float = 0.0  # 0 to 1
    cancel_asked_at: datetime | None = Field(None, sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)
    started_at: datetime | None = Field(None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(None, sa_type=UtcDateTime)
    processing_seconds: float | None = None
    concurrency: float | None = None  # the mean number of jobs that ran at the same time
    cost_microusd: int | None = Field(None, sa_type=sa.BigInteger)  # the provider's charge
    video_id: str | None = Field(None, foreign_key="videos.id", index=True)
    error: str | None = None
    tag: str | None = None  # for the video, where this job makes one
    # `metadata` of the API, a name that SQLModel keeps for itself
    caller_metadata: dict[str, str] = Field(
        default_factory=dict, sa_type=sa.JSON, sa_column_kwargs={"server_default": "{}"}
    )
    webhook_url: str | None = None  # where its events are sent, too


class InputImage(SQLModel, table=True):
    """An image that deleted jobs of a user began with, by which an erasure and an export still find it."""

    __tablename__ = "input_images"
    user_id: str = Field(primary_key=True, foreign_key="users.id")
    sha256: str = Field(primary_key=True, index=True)


class VendorJobRow(SQLModel, table=True):
    """A job that a provider has made, or may have: one for each key that a request was sent under."""

    __tablename__ = "vendor_jobs"
    __table_args__ = (
        sa.Index("ix_vendor_jobs_sent", "provider", "sent_at"),
        index_where("ix_vendor_jobs_there", "provider", "ended_at IS NULL", unique=False),
    )
    key: str = Field(primary_key=True)  # the job's `provider_key` at that time
    job_id: str = Field(foreign_key="jobs.id", index=True)
    provider: str
    vendor_id: str | None = None  # the provider's
    sent_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(None, sa_type=UtcDateTime)  # there; at the latest since then it counts as spent
    counted_microusd: int | None = Field(None, sa_type=sa.BigInteger)  # as it was reported, or else expected
    reported_microusd: int | None = Field(None, sa_type=sa.BigInteger)


class VendorErasureRow(SQLModel, table=True):
    """A vendor's job that is to be deleted there, and what the vendor said."""

    __tablename__ = "vendor_erasures"
    __table_args__ = (known("state", VendorErasure), sa.Index("ix_vendor_erasures_due", "state", "due_at"))
    key: str = Field(primary_key=True, foreign_key="vendor_jobs.key")
    state: str = VendorErasure.WAITING
    is_takedown: bool  # which no freeze stops
    asked_at: datetime = Field(sa_type=UtcDateTime)
    due_at: datetime = Field(sa_type=UtcDateTime)  # it is not asked again before
    tries: int = 0
    answered_at: datetime | None = Field(None, sa_type=UtcDateTime)


class CacheEntry(SQLModel, table=True):
    """A request whose video can be reused. It is deleted with its video."""

    __tablename__ = "cache_entries"
    key: str = Field(primary_key=True)
    video_id: str = Field(foreign_key="videos.id", index=True)
    user_id: str | None = None  # None: shared with everybody
    cost_microusd: int = Field(sa_type=sa.BigInteger)  # the cost of making it again
    hits: int = 0
    created_at: datetime = Field(sa_type=UtcDateTime)
    last_hit_at: datetime | None = Field(None, sa_type=UtcDateTime)
    expires_at: datetime | None = Field(None, sa_type=UtcDateTime)  # no index: every hit changes it


class UploadRow(SQLModel, table=True):
    """A video that is uploaded by a presigned PUT. Its state is that of its reservation."""

    __tablename__ = "uploads"
    id: str = Field(primary_key=True)  # a digest of the user and the caller's idempotency key
    request_sha256: str
    video_id: str  # has no row of `videos` before its bytes have arrived
    video_created_at: datetime = Field(sa_type=UtcDateTime)
    reservation_id: str = Field(foreign_key="reservations.id", unique=True)
    blob_id: int = Field(sa_type=sa.BigInteger)
    url_until: datetime = Field(sa_type=UtcDateTime)
    refusal: str | None = None
    tag: str | None = None  # for the video


class ApiToken(SQLModel, table=True):
    """A token of the HTTP API and its scopes. The token itself is not stored."""

    __tablename__ = "api_tokens"
    id: str = Field(primary_key=True)
    name: str
    sha256: str = Field(unique=True)
    scopes: list[str] = Field(sa_type=sa.JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(None, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(None, sa_type=UtcDateTime)


class PerformanceWindow(SQLModel, table=True):
    """The service's performance in a window of time, overall or for one tier or model ("" is all of them)."""

    __tablename__ = "performance_windows"
    start_at: datetime = Field(primary_key=True, sa_type=UtcDateTime)
    tier: str = Field("", primary_key=True)
    model: str = Field("", primary_key=True)
    seconds: int
    figures: dict[str, float | None] = Field(sa_type=sa.JSON)  # named with their units


class Control(SQLModel, table=True):
    """The state that a control loop keeps from one run to the next."""

    __tablename__ = "controls"
    name: str = Field(primary_key=True)  # concurrency, dispatch
    state: dict[str, Any] = Field(sa_type=sa.JSON)
    updated_at: datetime = Field(sa_type=UtcDateTime)
