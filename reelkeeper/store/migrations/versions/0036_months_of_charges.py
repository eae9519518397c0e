"""Add the charges of users by month, and those of each day by tier, which later days are rolled up to.

`monitor_costs` rolls up the earlier days, some in each run.
"""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    """Add the tables, and sum each day's charges."""
    op.create_table(
        "charge_months",
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        *_amounts(),
        sa.Column("tier", sa.String(), nullable=True),
        sa.Column("price_book", sa.String(), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("month", "sku", "user_id"),
    )
    op.create_index("ix_charge_months_user", "charge_months", ["user_id", "month"], unique=False)
    op.create_table(
        "charge_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("tier", sa.String(), nullable=False),
        *_amounts(),
        sa.PrimaryKeyConstraint("day", "sku", "tier"),
    )
    op.execute(
        "INSERT INTO charge_days (day, sku, tier, service, consumed_quantity, consumed_unit, list_nanousd, "
        "billed_nanousd, estimated, provider) SELECT day, sku, coalesce(tier, ''), min(service), "
        "sum(consumed_quantity), min(consumed_unit), sum(list_nanousd), sum(billed_nanousd), "
        "max(CASE WHEN estimated THEN 1 ELSE 0 END) = 1, min(provider) FROM charges "
        "GROUP BY day, sku, coalesce(tier, '')"
    )


def _amounts() -> list[sa.Column[object]]:
    return [
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("consumed_quantity", sa.BigInteger(), nullable=False),
        sa.Column("consumed_unit", sa.String(), nullable=False),
        sa.Column("list_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("billed_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
    ]
