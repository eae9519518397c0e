"""Add takedowns, and legal holds, which also prevent a takedown."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create the table. No existing hold is a legal one."""
    op.create_table(
        "blocked_bytes",
        sa.Column("blob_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("etag", sa.String(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("blocked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("blob_id"),
    )
    op.create_index("ix_blocked_bytes_sha256", "blocked_bytes", ["sha256"])
    op.create_index("ix_blocked_bytes_etag", "blocked_bytes", ["etag", "size_bytes"])
    op.add_column("holds", sa.Column("is_legal", sa.Boolean(), nullable=False, server_default=sa.false()))
