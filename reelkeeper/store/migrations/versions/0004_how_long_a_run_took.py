"""How long the last good run of each flow took."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
changes_rows: frozenset[str] = frozenset()


def upgrade() -> None:
    """Add the column; of runs before it nobody knows."""
    op.add_column("heartbeats", sa.Column("run_seconds", sa.Float(), nullable=True))


def downgrade() -> None:
    """Undo it."""
    op.drop_column("heartbeats", "run_seconds")
