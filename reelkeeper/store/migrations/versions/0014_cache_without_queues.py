"""Remove the cache's queues, hit counters and ghost keys: it is pruned by the requests that jobs record."""

from alembic import op

revision = "0014"
down_revision = "0013"
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
