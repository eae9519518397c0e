"""Add the jobs that providers made or may have made, each attempt with its name there and what counts for it."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
changes_rows: frozenset[str] = frozenset({"vendor_jobs"})

# Of jobs sent before, the last attempt is known. Those that are over count already, at what was reported or expected.
_FILL = """
    INSERT INTO vendor_jobs (key, job_id, provider, vendor_id, sent_at, ended_at, counted_microusd, reported_microusd)
    SELECT provider_key, id, provider, provider_job_id, COALESCE(started_at, created_at), finished_at,
        CASE WHEN finished_at IS NULL THEN NULL ELSE COALESCE(cost_microusd, quoted_cost_microusd, price_microusd) END,
        cost_microusd
    FROM jobs WHERE provider_key IS NOT NULL AND provider IS NOT NULL
"""


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "vendor_jobs",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("vendor_id", sa.String(), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("counted_microusd", sa.BigInteger(), nullable=True),
        sa.Column("reported_microusd", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_vendor_jobs_job_id", "vendor_jobs", ["job_id"], unique=False)
    op.create_index("ix_vendor_jobs_sent", "vendor_jobs", ["provider", "sent_at"], unique=False)
    op.execute(_FILL)
