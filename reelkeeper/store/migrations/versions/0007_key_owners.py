"""Add owners of keys, and a scan's verdict on an object without a row."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_TEXTS = ("scan_id", "verdict", "user_id", "name_id", "unique_id", "video_id")


def upgrade() -> None:
    """Create the table, and the columns, which the next scan fills."""
    op.create_table(
        "key_owners",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=True),
        sa.Column("video_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key"),
    )
    for name in _TEXTS:
        op.add_column("orphans", sa.Column(name, sa.String(), nullable=True))
    for name in ("generation", "pattern"):
        op.add_column("orphans", sa.Column(name, sa.Integer(), nullable=True))
    for name in ("created_at", "told_at"):
        op.add_column("orphans", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_orphans_scan", "orphans", ["scan_id", "key"])
