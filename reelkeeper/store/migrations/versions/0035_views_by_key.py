"""Keep views in their key's order, on SQLite, so that a plan finds each without a second search."""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    """Make the table anew."""
    if op.get_bind().dialect.name != "sqlite":
        return  # PostgreSQL has no such tables
    op.rename_table("daily_views", "earlier_daily_views")
    op.create_table(
        "daily_views",
        sa.Column("video_id", sa.String(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("views", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["video_id"], ["videos.id"]),
        sa.PrimaryKeyConstraint("video_id", "day"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO daily_views SELECT video_id, day, views FROM earlier_daily_views ORDER BY video_id, day")
    op.drop_table("earlier_daily_views")
