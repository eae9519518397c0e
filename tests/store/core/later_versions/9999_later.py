"""A later schema version for tests: it recreates the users' table while videos refer to it."""

import sqlalchemy as sa
from alembic import op

from reelkeeper.store.core.schema import VERSIONS

revision = "later"
down_revision = max(path.name[:4] for path in VERSIONS.glob("[0-9]*.py"))


def upgrade() -> None:
    """Add a column and a check, which SQLite can only do by copying the table."""
    with op.batch_alter_table("users", recreate="auto") as batch:
        batch.add_column(sa.Column("country", sa.String(), nullable=False, server_default="unknown"))
        batch.create_check_constraint("some_country", "country <> ''")
    op.create_table("countries", sa.Column("name", sa.String(), primary_key=True))
    op.execute("INSERT INTO countries (name) VALUES ('unknown')")
