"""Add swaps in place: the copy of the old bytes, a late PUT, and rows of objects not yet stored."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add them."""
    op.add_column("operations", sa.Column("aside_blob_id", sa.BigInteger(), nullable=True))
    op.add_column("operations", sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("one_open_row_a_key", "blobs")
    is_open = sa.text("state <> 'gone' AND (state <> 'pending' OR is_ours)")
    op.create_index("one_open_row_a_key", "blobs", ["key"], unique=True, sqlite_where=is_open, postgresql_where=is_open)
