"""Drop an index of jobs by size, unused since jobs are ranked by size and age."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Drop it: each change of a job's state updated it."""
    op.drop_index("ix_jobs_size", "jobs")
