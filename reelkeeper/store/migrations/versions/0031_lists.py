"""Index jobs, moves of credits and users, for the lists of the HTTP API."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    """Add two indexes, and put the kind into a third."""
    op.create_index("ix_jobs_user", "jobs", ["user_id", "state", "created_at"])
    op.drop_index("ix_transfers_user", "transfers")
    op.create_index("ix_transfers_user", "transfers", ["user_id", "kind", "at"])
    op.create_index(
        "ix_users_present",
        "users",
        ["id"],
        sqlite_where=sa.text("erasing_at IS NULL"),
        postgresql_where=sa.text("erasing_at IS NULL"),
    )
