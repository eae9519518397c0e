"""Tables of the deployment, policies, plans, intents, leases, holds, epochs and the audit record."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from reelkeeper.store.tables.columns import UtcDateTime, counted, index_where


class Deployment(SQLModel, table=True):
    """The single row with the deployment's id, and whether changes are frozen."""

    __tablename__ = "deployment"
    id: str = Field(primary_key=True)
    created_at: datetime = Field(sa_type=UtcDateTime)
    frozen_at: datetime | None = Field(None, sa_type=UtcDateTime)
    frozen_by: str | None = None
    frozen_reason: str | None = None
    audit_events: int = 0  # length and head of the audit chain, which detect truncation
    audit_head: str = ""
    policy_version: int = Field(0, sa_column_kwargs={"server_default": "0"})  # in force; 0: the shipped policies
    policy_digest: str = Field(
        "", sa_column_kwargs={"server_default": ""}
    )  # of its document: a process reads each document once


class PolicyVersion(SQLModel, table=True):
    """All policies, as applied. Rows are never changed, as money and promises refer to them."""

    __tablename__ = "policy_versions"
    version: int = Field(primary_key=True)
    digest: str
    document: dict[str, Any] = Field(sa_type=sa.JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)
    author: str
    reason: str


class Operation(SQLModel, table=True):
    """A write-ahead intent: a change outside the store that a later run can finish or undo."""

    __tablename__ = "operations"
    __table_args__ = (
        sa.CheckConstraint("state IN ('open', 'done', 'abandoned')", name="known_operation_state"),
        index_where("one_open_operation_per_video", "video_id", "state = 'open'"),
    )
    id: str = Field(primary_key=True)
    kind: str  # swap, upload, restore
    state: str = "open"
    video_id: str = Field(foreign_key="videos.id")
    old_blob_id: int | None = Field(None, sa_type=sa.BigInteger)
    new_blob_id: int | None = Field(None, sa_type=sa.BigInteger)
    aside_blob_id: int | None = Field(None, sa_type=sa.BigInteger)  # in place: the copy of the old bytes
    sent_at: datetime | None = Field(None, sa_type=UtcDateTime)  # in place: when a PUT was sent whose answer is unknown
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
    policy_version: int = Field(0, sa_column_kwargs={"server_default": "0"})
    population: int = 0
    population_bytes: int = Field(0, sa_type=sa.BigInteger)
    kept: dict[str, int] = Field(default_factory=dict, sa_type=sa.JSON)
    refusal: str | None = None
    widening: dict[str, float] = Field(
        default_factory=dict, sa_type=sa.JSON, sa_column_kwargs={"server_default": "{}"}
    )  # the limits that would allow the refused plan; empty: none would
    approved_at: datetime | None = Field(None, sa_type=UtcDateTime)
    approved_by: str | None = None
    approval_reason: str | None = None


class VerdictRow(SQLModel, table=True):
    """One verdict of a plan that is not "keep", with its outcome. Kept videos are counted in the plan."""

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
    net_microusd: int | None = Field(None, sa_type=sa.BigInteger)  # over the rest of the life, less CPU and requests
    outcome: str | None = None
    outcome_reason: str | None = None
    after_bytes: int | None = Field(None, sa_type=sa.BigInteger)
    segment: str | None = None  # the policy's segment that decided; NULL: the policy itself


class CrfSearchRow(SQLModel, table=True):
    """The result and cost of one CRF search, whatever its outcome; later searches start from it."""

    __tablename__ = "crf_searches"
    __table_args__ = (sa.Index("ix_crf_searches_encoder", "encoder", "id"), sa.Index("ix_crf_searches_run", "run_id"))
    id: int | None = Field(None, sa_column=counted())
    at: datetime = Field(sa_type=UtcDateTime, index=True)
    run_id: str
    video_id: str
    model: str | None = None  # the generator of the clip
    machine: str | None = None  # the host that encoded
    encoder: str
    preset: int
    pixels: int = Field(sa_type=sa.BigInteger)  # of a frame
    frames: int
    video_bits: int = Field(sa_type=sa.BigInteger)
    source_bytes: int = Field(sa_type=sa.BigInteger)
    kept_bytes: int = Field(sa_type=sa.BigInteger)
    outcome: str
    probes: list[Any] = Field(sa_type=sa.JSON)
    cpu_seconds: float
    days: int
    gain_microusd: int = Field(sa_type=sa.BigInteger)
    cost_microusd: int = Field(sa_type=sa.BigInteger)


class LeaseRow(SQLModel, table=True):
    """The right to work on something until `expires_at`. `token` grows at each grant and fences off earlier holders."""

    __tablename__ = "leases"
    name: str = Field(primary_key=True)
    holder: str
    token: int
    expires_at: datetime = Field(sa_type=UtcDateTime)


class Hold(SQLModel, table=True):
    """An order to keep a user's videos, or one video. It overrides every rule."""

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
    is_legal: bool = Field(False, sa_column_kwargs={"server_default": sa.false()})  # respected by takedowns, too


class Epoch(SQLModel, table=True):
    """A deletion, restore or hold, announced in the bucket so that an older or copied store notices that it is behind.

    `name` is that of the bucket's object: `number`, and a nonce. Confirmed once it is stored there with nothing unknown
    beside it. `is_own` is false for those that another copy announced, and that `reelkeeper db adopt` accepted.
    """

    __tablename__ = "epochs"
    name: str = Field(primary_key=True)
    number: int = Field(sa_type=sa.BigInteger, index=True)
    kind: str
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON)  # who is concerned, as digests
    is_own: bool = True
    lease: str | None = Field(None, index=True)  # a digest of the lease under which a run deletes
    announced_at: datetime = Field(sa_type=UtcDateTime)
    confirmed_at: datetime | None = Field(None, sa_type=UtcDateTime)


class AuditEvent(SQLModel, table=True):
    """One event of the append-only, hash-chained record of everything done to customers' data.

    `seal` is over `salt` and all that may be personal: `video_id`, `user_id` and `detail`. An erased event has no salt:
    its `user_id` is a pseudonym, and `detail` contains only figures.
    """

    __tablename__ = "audit_events"
    __table_args__ = (sa.Index("ix_audit_events_event", "event", "at"),)
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
    salt: str | None = None
    seal: str = Field("", sa_column_kwargs={"server_default": ""})
