"""Add a person's approval of a refused plan, and the limits that it widens."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the columns. Plans refused earlier cannot be approved: plan again."""
    op.add_column("plans", sa.Column("widening", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("plans", sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("plans", sa.Column("approved_by", sa.String(), nullable=True))
    op.add_column("plans", sa.Column("approval_reason", sa.String(), nullable=True))
