"""Add the tag and the model of a video, and the segment of the policy that decided about it."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

_ADDED = {"videos": ("model", "tag"), "jobs": ("tag",), "uploads": ("tag",), "verdicts": ("segment",)}


def upgrade() -> None:
    """Add them. A video has the model of its job, if known, and no tag."""
    for table, names in _ADDED.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.String(), nullable=True))
    videos = sa.table("videos", *map(sa.column, ("id", "model")))
    jobs = sa.table("jobs", *map(sa.column, ("video_id", "leader_id", "model")))
    made = sa.select(sa.func.min(jobs.c.model)).where(jobs.c.video_id == videos.c.id, jobs.c.leader_id.is_(None))
    is_made = sa.exists().where(jobs.c.video_id == videos.c.id, jobs.c.leader_id.is_(None))
    op.execute(sa.update(videos).where(is_made).values(model=made.scalar_subquery()))
