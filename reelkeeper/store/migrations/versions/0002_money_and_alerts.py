"""Add credits, quotas, usage, charges and forecasts; alerts and the outbox.

Entries of the ledger are append-only. Each user's stored bytes are counted once here; later changes update the count.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_LEDGER = ("transfers", "entries")
_SQLITE_APPEND_ONLY = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
_POSTGRESQL_APPEND_ONLY = """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();
"""
_POSTGRESQL_REFUSE = """
CREATE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$;
"""
_COUNT_STORED = """
INSERT INTO storage_accounts (user_id, used_bytes, reserved_bytes)
SELECT users.id, COALESCE(SUM(blobs.size_bytes), 0), 0
FROM users
LEFT JOIN videos ON videos.user_id = users.id AND videos.state = 'live'
LEFT JOIN blobs ON blobs.id = videos.blob_id
GROUP BY users.id
"""


def upgrade() -> None:
    """Create the tables, and count each user's stored bytes."""
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("severity", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("suggestion", sa.String(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("impact_microusd", sa.BigInteger(), nullable=True),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_told", sa.Boolean(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.String(), nullable=True),
        sa.CheckConstraint("severity IN ('notice', 'warning', 'critical')", name="known_severity"),
        sa.CheckConstraint("state IN ('firing', 'acknowledged', 'resolved')", name="known_state"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("rule", "scope", "period", "level", name="one_alert_per_crossing"),
    )
    op.create_index("ix_alerts_state", "alerts", ["state", "rule"], unique=False)
    op.create_table(
        "charges",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("tier", sa.String(), nullable=True),
        sa.Column("consumed_quantity", sa.BigInteger(), nullable=False),
        sa.Column("consumed_unit", sa.String(), nullable=False),
        sa.Column("list_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("billed_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("price_book", sa.String(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("day", "sku", "user_id"),
    )
    op.create_table(
        "forecasts",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mean_microusd", sa.BigInteger(), nullable=False),
        sa.Column("lower80_microusd", sa.BigInteger(), nullable=False),
        sa.Column("upper80_microusd", sa.BigInteger(), nullable=False),
        sa.Column("lower95_microusd", sa.BigInteger(), nullable=False),
        sa.Column("upper95_microusd", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "month", "service"),
    )
    op.create_index("ix_forecasts_as_of", "forecasts", ["as_of"], unique=False)
    op.create_table(
        "heartbeats",
        sa.Column("flow", sa.String(), nullable=False),
        sa.Column("last_ok_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_seconds", sa.Integer(), nullable=False),
        sa.Column("grace_seconds", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("flow"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("alert_ids", sa.JSON(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("attachment", sa.LargeBinary(), nullable=True),
        sa.Column("attachment_name", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("after_id", sa.BigInteger(), nullable=True),
        sa.Column("copied_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("receipt", sa.String(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.CheckConstraint("kind IN ('alert', 'resolve', 'digest', 'chart', 'note')", name="known_kind"),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'diverted', 'withdrawn')", name="known_state"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_outbox_due", "outbox", ["state", "due_at"], unique=False)
    op.create_table(
        "snoozes",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=True),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "usage_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("resource", sa.String(), nullable=False),
        sa.Column("storage_class", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("sampled", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "metric IN ('stored_bytes', 'operations', 'retrieved_bytes', 'uploaded_bytes', "
            "'deleted_bytes', 'jobs', 'generation_seconds', 'users')",
            name="known_metric",
        ),
        sa.CheckConstraint("source IN ('store', 'cloudflare')", name="known_source"),
        sa.PrimaryKeyConstraint("day", "metric", "source", "resource", "storage_class", "user_id"),
    )
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=True),
        sa.Column("balance_microusd", sa.BigInteger(), nullable=False),
        # guard ledger.no_debt: a mistaken statement puts a user into debt
        sa.CheckConstraint("kind = 'house' OR balance_microusd >= 0", name="no_debt"),
        sa.CheckConstraint("kind IN ('user', 'held', 'house')", name="known_kind"),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_accounts_user_id", "accounts", ["user_id"], unique=False)
    op.create_table(
        "credit_holds",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("amount_microusd", sa.BigInteger(), nullable=False),
        sa.Column("captured_microusd", sa.BigInteger(), nullable=False),
        sa.Column("refunded_microusd", sa.BigInteger(), nullable=False),
        sa.Column("price_book", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('open', 'captured', 'released', 'expired')", name="known_state"),
        sa.CheckConstraint("captured_microusd BETWEEN 0 AND amount_microusd", name="captured_of_hold"),
        sa.CheckConstraint("refunded_microusd BETWEEN 0 AND captured_microusd", name="refunded_of_captured"),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_credit_holds_open", "credit_holds", ["state", "expires_at"], unique=False)
    op.create_index("ix_credit_holds_user_id", "credit_holds", ["user_id"], unique=False)
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('open', 'settled', 'released', 'expired')", name="known_state"),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_reservations_open", "reservations", ["state", "expires_at"], unique=False)
    op.create_index("ix_reservations_user_id", "reservations", ["user_id"], unique=False)
    op.create_table(
        "storage_accounts",
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), nullable=False),
        sa.Column("reserved_bytes", sa.BigInteger(), nullable=False),
        sa.Column("quota_bytes", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("reserved_bytes >= 0", name="some_reserved"),
        sa.CheckConstraint("used_bytes >= 0", name="some_used"),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
        ),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.create_table(
        "transfers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("hold_id", sa.String(), nullable=True),
        sa.Column("amount_microusd", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.CheckConstraint("kind IN ('grant', 'hold', 'capture', 'release', 'expire', 'refund')", name="known_kind"),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index("ix_transfers_hold_id", "transfers", ["hold_id"], unique=False)
    op.create_index("ix_transfers_user", "transfers", ["user_id", "at"], unique=False)
    op.create_index("ix_audit_events_event", "audit_events", ["event", "at"], unique=False)
    op.create_table(
        "entries",
        sa.Column("transfer_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("amount_microusd", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["accounts.id"],
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id"],
            ["transfers.id"],
        ),
        sa.PrimaryKeyConstraint("transfer_id", "account_id"),
    )
    op.create_index("ix_entries_account", "entries", ["account_id"], unique=False)

    op.execute(_COUNT_STORED)
    if op.get_bind().dialect.name == "sqlite":
        for table in _LEDGER:
            for verb in ("update", "delete"):
                op.execute(_SQLITE_APPEND_ONLY.format(table=table, verb=verb))
    else:
        op.execute(_POSTGRESQL_REFUSE)
        for table in _LEDGER:
            op.execute(_POSTGRESQL_APPEND_ONLY.format(table=table))
