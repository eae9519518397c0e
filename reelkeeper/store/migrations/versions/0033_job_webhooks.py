"""Add the URLs that jobs' events are sent to beside the webhooks of the service."""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    """Add the columns."""
    for table, column in (("jobs", "webhook_url"), ("outbox", "url")):
        op.add_column(table, sa.Column(column, sa.String(), nullable=True))
