"""Add webhook endpoints, and their events in the outbox."""

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
changes_rows: frozenset[str] = frozenset()

_KINDS = "'alert', 'resolve', 'digest', 'chart', 'note'"
_STATES = "'waiting', 'sent', 'diverted', 'withdrawn'"


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
        _allow(batch, f"{_KINDS}, 'event'", f"{_STATES}, 'given_up'")
    op.create_index("ix_outbox_endpoint", "outbox", ["endpoint_id", "state", "id"])
    op.create_index("ix_outbox_subject", "outbox", ["endpoint_id", "subject", "state"])


def downgrade() -> None:
    """Undo it. Undelivered events are deleted."""
    op.execute("DELETE FROM outbox WHERE kind = 'event'")
    op.drop_index("ix_outbox_subject", "outbox")
    op.drop_index("ix_outbox_endpoint", "outbox")
    with op.batch_alter_table("outbox") as batch:
        _allow(batch, _KINDS, _STATES)
        batch.drop_column("subject")
        batch.drop_column("endpoint_id")
    op.drop_table("webhook_endpoints")


def _allow(batch: BatchOperations, kinds: str, states: str) -> None:
    for name, column, values in (("known_kind", "kind", kinds), ("known_state", "state", states)):
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, f"{column} IN ({values})")
