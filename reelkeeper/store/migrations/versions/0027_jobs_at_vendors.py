"""Add an index of the jobs that vendors have, so that counting them costs the same however many wait."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Add the index."""
    is_there = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_vendor_jobs_there", "vendor_jobs", ["provider"], sqlite_where=is_there, postgresql_where=is_there
    )
