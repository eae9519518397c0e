"""Add the metadata that callers give with jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    """Add the column; earlier jobs have none."""
    op.add_column("jobs", sa.Column("caller_metadata", sa.JSON(), nullable=False, server_default="{}"))
