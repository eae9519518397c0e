"""Remove the cache's queues, hit counters and ghost keys: it is pruned by the requests that jobs record."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
changes_rows: frozenset[str] = frozenset({"cache_entries", "cache_ghosts"})


def upgrade() -> None:
    """Drop what only S3-FIFO used. The entries stay."""
    op.drop_index("ix_cache_ghosts_position", "cache_ghosts")
    op.drop_table("cache_ghosts")
    op.drop_index("ix_cache_entries_order", "cache_entries")
    with op.batch_alter_table("cache_entries") as batch:
        batch.drop_constraint("known_queue", type_="check")
        for name in ("queue", "position", "frequency"):
            batch.drop_column(name)


def downgrade() -> None:
    """Undo it. All entries are in the small queue again, without ghost keys."""
    with op.batch_alter_table("cache_entries") as batch:
        batch.add_column(sa.Column("queue", sa.String(), nullable=False, server_default="small"))
        batch.add_column(sa.Column("position", sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("frequency", sa.Integer(), nullable=False, server_default="0"))
        batch.create_check_constraint("known_queue", "queue IN ('small', 'main')")
    with op.batch_alter_table("cache_entries") as batch:
        for name in ("queue", "position", "frequency"):
            batch.alter_column(name, server_default=None)
    op.create_index("ix_cache_entries_order", "cache_entries", ["queue", "position"])
    op.create_table(
        "cache_ghosts",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_cache_ghosts_position", "cache_ghosts", ["position"])
