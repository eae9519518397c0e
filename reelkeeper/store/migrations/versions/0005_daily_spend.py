"""Add a job's expected cost, and the spending of each day."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add both. Earlier jobs have no expected cost."""
    op.add_column("jobs", sa.Column("quoted_cost_microusd", sa.BigInteger(), nullable=True))
    op.create_table(
        "spend_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("charged_microusd", sa.BigInteger(), nullable=False),
        sa.Column("generated_microusd", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day"),
    )
