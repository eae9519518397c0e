"""Add the duration of each flow's last successful run."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column, empty for earlier runs."""
    op.add_column("heartbeats", sa.Column("run_seconds", sa.Float(), nullable=True))
