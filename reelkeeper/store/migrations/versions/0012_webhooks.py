"""Add webhook endpoints, and their events in the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_KINDS = "'alert', 'resolve', 'digest', 'chart', 'note', 'event'"
_STATES = "'waiting', 'sent', 'diverted', 'withdrawn', 'given_up'"


def upgrade() -> None:
    """Create the table, and allow events in the outbox."""
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("old_secret", sa.String(), nullable=True),
        sa.Column("old_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_ok_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_reason", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("outbox") as batch:
        batch.add_column(sa.Column("endpoint_id", sa.String(), nullable=True))
        batch.add_column(sa.Column("subject", sa.String(), nullable=True))
        for name, column, values in (("known_kind", "kind", _KINDS), ("known_state", "state", _STATES)):
            batch.drop_constraint(name, type_="check")
            batch.create_check_constraint(name, f"{column} IN ({values})")
    op.create_index("ix_outbox_endpoint", "outbox", ["endpoint_id", "state", "id"])
    op.create_index("ix_outbox_subject", "outbox", ["endpoint_id", "subject", "state"])
