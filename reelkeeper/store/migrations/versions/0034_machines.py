"""Add the machine that searched an encode."""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    """Add the column."""
    op.add_column("crf_searches", sa.Column("machine", sa.String(), nullable=True))
