"""Add the results and costs of searches for a CRF, the job of each video, and the net saving of a plan's item."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create the table, the index, and the column, which is empty for earlier plans."""
    op.create_table(
        "crf_searches",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("video_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("encoder", sa.String(), nullable=False),
        sa.Column("preset", sa.Integer(), nullable=False),
        sa.Column("pixels", sa.BigInteger(), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("video_bits", sa.BigInteger(), nullable=False),
        sa.Column("source_bytes", sa.BigInteger(), nullable=False),
        sa.Column("kept_bytes", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("probes", sa.JSON(), nullable=False),
        sa.Column("cpu_seconds", sa.Float(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("gain_microusd", sa.BigInteger(), nullable=False),
        sa.Column("cost_microusd", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_crf_searches_encoder", "crf_searches", ["encoder", "id"])
    op.create_index("ix_crf_searches_run", "crf_searches", ["run_id"])
    op.create_index("ix_crf_searches_at", "crf_searches", ["at"])
    op.create_index("ix_jobs_video_id", "jobs", ["video_id"])
    op.add_column("verdicts", sa.Column("net_microusd", sa.BigInteger(), nullable=True))
