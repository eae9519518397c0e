"""Store the policies, and the version under which each plan, job and charge was made."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_MADE_UNDER = ("deployment", "plans", "jobs", "charges")


def upgrade() -> None:
    """Create the table. Existing rows get version 0, the shipped policies: the parameters of their runs are unknown."""
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
