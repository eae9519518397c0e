"""Add swaps in place: the copy of the old bytes, a late PUT, and rows of objects not yet stored."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None
changes_rows: frozenset[str] = frozenset()

_INDEX = "one_open_row_a_key"


def upgrade() -> None:
    """Add them."""
    op.add_column("operations", sa.Column("aside_blob_id", sa.BigInteger(), nullable=True))
    op.add_column("operations", sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True))
    _make_index("state <> 'gone' AND (state <> 'pending' OR is_ours)")


def downgrade() -> None:
    """Undo it. Fails while a swap in place is open: run sync_catalog first."""
    _make_index("state <> 'gone'")
    op.drop_column("operations", "sent_at")
    op.drop_column("operations", "aside_blob_id")


def _make_index(where: str) -> None:
    op.drop_index(_INDEX, "blobs")
    is_open = sa.text(where)
    op.create_index(_INDEX, "blobs", ["key"], unique=True, sqlite_where=is_open, postgresql_where=is_open)
