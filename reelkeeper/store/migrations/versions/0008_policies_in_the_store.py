"""Policies in the store, and under which version each plan, job and charge was made."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
changes_rows: frozenset[str] = frozenset()

_MADE_UNDER = ("deployment", "plans", "jobs", "charges")


def upgrade() -> None:
    """Make the table. What there is was made under what Reelkeeper shipped, or under parameters that nobody kept: 0."""
    op.create_table(
        "policy_versions",
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    for table in _MADE_UNDER:
        op.add_column(table, sa.Column("policy_version", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deployment", sa.Column("policy_digest", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """Undo it."""
    op.drop_column("deployment", "policy_digest")
    for table in reversed(_MADE_UNDER):
        op.drop_column(table, "policy_version")
    op.drop_table("policy_versions")
