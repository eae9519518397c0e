"""Create the tables of revision 0036."""

from typing import Any

import sqlalchemy as sa
from alembic import op

TEXT, TIME, BIG, COUNT = sa.String(), sa.DateTime(timezone=True), sa.BigInteger(), sa.Integer()
DATE, FLAG, REAL, JSON = sa.Date(), sa.Boolean(), sa.Float(), sa.JSON()

_NUMBERED = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # which counts up by itself in SQLite, too
_ERASURES = ("waiting", "deleted", "partly", "absent", "kept", "unnamed", "given_up")


def needed(kind: Any, *names: str) -> list[sa.Column[Any]]:  # noqa: ANN401  as SQLAlchemy takes it
    """Make columns of one type that each row has a value for."""
    return [sa.Column(name, kind, nullable=False) for name in names]


def optional(kind: Any, *names: str) -> list[sa.Column[Any]]:  # noqa: ANN401  the same
    """Make columns of one type that may be empty."""
    return [sa.Column(name, kind, nullable=True) for name in names]


def index_where(name: str, table: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    """Create an index of some rows; TRUE in the condition is 1 to SQLite."""
    here, there = sa.text(condition.replace("TRUE", "1")), sa.text(condition)
    op.create_index(name, table, columns, unique=unique, sqlite_where=here, postgresql_where=there)


def create_tables() -> None:
    """Create them all, empty."""
    _of_owners_and_policies()
    _of_videos()
    _of_webhooks()
    _of_vendors()
    _of_charges()


def _of_owners_and_policies() -> None:
    op.create_table(
        "key_owners",
        *needed(TEXT, "key"),
        *optional(TEXT, "user_id", "video_id"),
        *optional(TIME, "created_at"),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "policy_versions",
        *needed(COUNT, "version"),
        *needed(TEXT, "digest"),
        *needed(JSON, "document"),
        *needed(TIME, "created_at"),
        *needed(TEXT, "author", "reason"),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_table(
        "former_ids",
        *needed(TEXT, "id", "user_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_former_ids_user_id", "former_ids", ["user_id"])
    op.create_table(
        "epochs",
        *needed(TEXT, "name"),
        *needed(BIG, "number"),
        *needed(TEXT, "kind"),
        *needed(JSON, "detail"),
        *needed(FLAG, "is_own"),
        *optional(TEXT, "lease"),
        *needed(TIME, "announced_at"),
        *optional(TIME, "confirmed_at"),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("ix_epochs_number", "epochs", ["number"])
    op.create_index("ix_epochs_lease", "epochs", ["lease"])


def _of_videos() -> None:
    op.create_table(
        "blocked_bytes",
        sa.Column("blob_id", BIG, autoincrement=False, nullable=False),
        *optional(TEXT, "sha256", "etag"),
        *needed(BIG, "size_bytes"),
        *needed(TIME, "blocked_at"),
        sa.PrimaryKeyConstraint("blob_id"),
    )
    op.create_index("ix_blocked_bytes_sha256", "blocked_bytes", ["sha256"])
    op.create_index("ix_blocked_bytes_etag", "blocked_bytes", ["etag", "size_bytes"])
    op.create_table(
        "doubts",
        sa.Column("blob_id", BIG, autoincrement=False, nullable=False),
        *optional(BIG, "found_bytes"),
        *optional(TEXT, "found_etag", "found_sha256"),
        *needed(TIME, "since", "seen_at"),
        *optional(TIME, "settled_at"),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"]),
        sa.PrimaryKeyConstraint("blob_id"),
    )
    op.create_table(
        "crf_searches",
        sa.Column("id", _NUMBERED, autoincrement=True, nullable=False),
        *needed(TIME, "at"),
        *needed(TEXT, "run_id", "video_id"),
        *optional(TEXT, "model"),
        *needed(TEXT, "encoder"),
        *needed(COUNT, "preset"),
        *needed(BIG, "pixels"),
        *needed(COUNT, "frames"),
        *needed(BIG, "video_bits", "source_bytes", "kept_bytes"),
        *needed(TEXT, "outcome"),
        *needed(JSON, "probes"),
        *needed(REAL, "cpu_seconds"),
        *needed(COUNT, "days"),
        *needed(BIG, "gain_microusd", "cost_microusd"),
        *optional(TEXT, "machine"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_crf_searches_encoder", "crf_searches", ["encoder", "id"])
    op.create_index("ix_crf_searches_run", "crf_searches", ["run_id"])
    op.create_index("ix_crf_searches_at", "crf_searches", ["at"])
    op.create_table(
        "notices",
        *needed(_NUMBERED, "id"),
        *needed(TEXT, "video_id", "tier"),
        *needed(COUNT, "days"),
        *needed(TEXT, "rule"),
        *needed(TIME, "given_at", "expires_at"),
        *needed(TEXT, "run_id"),
        *optional(TIME, "ended_at"),
        *optional(TEXT, "end"),
        sa.ForeignKeyConstraint(["video_id"], ["videos.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    index_where("one_standing_notice_a_video", "notices", ["video_id"], "ended_at IS NULL", unique=True)
    op.create_index("ix_notices_given", "notices", ["given_at"])
    op.create_table(
        "notice_deliveries",
        sa.Column("notice_id", BIG, autoincrement=False, nullable=False),
        *needed(TEXT, "endpoint_id"),
        *needed(BIG, "message_id"),
        *optional(TIME, "delivered_at", "released_at"),
        sa.ForeignKeyConstraint(["notice_id"], ["notices.id"]),
        sa.PrimaryKeyConstraint("notice_id", "endpoint_id"),
    )
    op.create_index("ix_notice_deliveries_message", "notice_deliveries", ["message_id"])
    op.create_index("ix_notice_deliveries_endpoint", "notice_deliveries", ["endpoint_id"])
    op.create_table(
        "keeps",
        *needed(TEXT, "id", "video_id", "author"),
        *needed(TIME, "at"),
        *needed(COUNT, "days"),
        *needed(TIME, "until"),
        sa.ForeignKeyConstraint(["video_id"], ["videos.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_keeps_video", "keeps", ["video_id"])
    op.create_index("ix_keeps_until", "keeps", ["until"])


def _of_webhooks() -> None:
    op.create_table(
        "webhook_endpoints",
        *needed(TEXT, "id", "url"),
        *needed(JSON, "events"),
        *needed(TEXT, "secret"),
        *optional(TEXT, "old_secret"),
        *optional(TIME, "old_secret_until"),
        *needed(TIME, "created_at", "closed_until"),
        *needed(COUNT, "failures"),
        *optional(TIME, "failing_since", "last_ok_at"),
        *optional(TEXT, "last_error"),
        *optional(TIME, "disabled_at"),
        *optional(TEXT, "disabled_reason"),
        sa.PrimaryKeyConstraint("id"),
    )


def _of_vendors() -> None:
    op.create_table(
        "job_totals",
        *needed(TEXT, "period", "scope"),
        *needed(BIG, "microusd"),
        *needed(COUNT, "refusals"),
        sa.Column("jobs", COUNT, nullable=False, server_default="0"),
        sa.Column("milliseconds", BIG, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("period", "scope"),
    )
    op.create_table(
        "vendor_jobs",
        *needed(TEXT, "key", "job_id", "provider"),
        *optional(TEXT, "vendor_id"),
        *needed(TIME, "sent_at"),
        *optional(TIME, "ended_at"),
        *optional(BIG, "counted_microusd", "reported_microusd"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_vendor_jobs_job_id", "vendor_jobs", ["job_id"])
    op.create_index("ix_vendor_jobs_sent", "vendor_jobs", ["provider", "sent_at"])
    index_where("ix_vendor_jobs_there", "vendor_jobs", ["provider"], "ended_at IS NULL")
    op.create_table(
        "vendor_erasures",
        *needed(TEXT, "key", "state"),
        *needed(FLAG, "is_takedown"),
        *needed(TIME, "asked_at", "due_at"),
        *needed(COUNT, "tries"),
        *optional(TIME, "answered_at"),
        sa.CheckConstraint(f"state IN ({', '.join(map(repr, _ERASURES))})", name="known_state"),
        sa.ForeignKeyConstraint(["key"], ["vendor_jobs.key"]),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_vendor_erasures_due", "vendor_erasures", ["state", "due_at"])


def _of_charges() -> None:
    op.create_table(
        "charge_months",
        *needed(DATE, "month"),
        *needed(TEXT, "sku", "user_id"),
        *_amounts(),
        *optional(TEXT, "tier"),
        *needed(TEXT, "price_book"),
        *needed(COUNT, "policy_version"),
        sa.PrimaryKeyConstraint("month", "sku", "user_id"),
    )
    op.create_index("ix_charge_months_user", "charge_months", ["user_id", "month"])
    op.create_table(
        "charge_days",
        *needed(DATE, "day"),
        *needed(TEXT, "sku", "tier"),
        *_amounts(),
        sa.PrimaryKeyConstraint("day", "sku", "tier"),
    )


def _amounts() -> list[sa.Column[Any]]:
    return [
        *needed(TEXT, "service"),
        *needed(BIG, "consumed_quantity"),
        *needed(TEXT, "consumed_unit"),
        *needed(BIG, "list_nanousd", "billed_nanousd"),
        *needed(FLAG, "estimated"),
        *needed(TEXT, "provider"),
    ]
