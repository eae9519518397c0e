"""Keep which images the deleted jobs of a user began with."""

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0036"


def upgrade() -> None:
    """Add the table. It is empty: the images of jobs that were deleted before are nobody's."""
    op.create_table(
        "input_images",
        sa.Column("user_id", sa.String(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "sha256"),
    )
    op.create_index("ix_input_images_sha256", "input_images", ["sha256"])
