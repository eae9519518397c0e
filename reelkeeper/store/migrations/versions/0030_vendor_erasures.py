"""Add the vendors' jobs that are to be deleted there, and what the vendors said."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"

_STATES = ("waiting", "deleted", "partly", "absent", "kept", "unnamed", "given_up")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "vendor_erasures",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("is_takedown", sa.Boolean(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(f"state IN ({', '.join(map(repr, _STATES))})", name="known_state"),
        sa.ForeignKeyConstraint(["key"], ["vendor_jobs.key"]),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_vendor_erasures_due", "vendor_erasures", ["state", "due_at"], unique=False)
