"""Allow keys that the service may overwrite: several rows a key, of which one is open; and claims of a purge."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_OURS = re.compile(r"/g[1-9][0-9]{0,8}-[0-9a-f]{16}\.[a-z0-9]{1,8}$", re.ASCII)  # as adapters/keys made them in 0005
_NAMES = {"uq": "uq_%(table_name)s_%(column_0_name)s"}  # SQLite keeps no name of a UNIQUE that was given none
_BATCH = 10_000


def upgrade() -> None:
    """Let a key have several rows, and mark the keys that Reelkeeper did not make as the service's."""
    with op.batch_alter_table("blobs", naming_convention=_NAMES) as batch:
        batch.add_column(sa.Column("is_ours", sa.Boolean(), nullable=False, server_default=sa.true()))
        batch.add_column(sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("claim_token", sa.Integer(), nullable=True))
        batch.drop_constraint(_name_of_unique(), type_="unique")
    _mark_keys_of_the_service()
    with op.batch_alter_table("blobs") as batch:
        batch.alter_column("is_ours", server_default=None)
    is_open = sa.text("state <> 'gone'")
    op.create_index("one_open_row_a_key", "blobs", ["key"], unique=True, sqlite_where=is_open, postgresql_where=is_open)
    op.create_index("ix_blobs_key", "blobs", ["key"])


def _name_of_unique() -> str:
    if op.get_bind().dialect.name == "sqlite":
        return "uq_blobs_key"
    (unique,) = sa.inspect(op.get_bind()).get_unique_constraints("blobs")
    return str(unique["name"])


def _mark_keys_of_the_service() -> None:
    blobs = sa.table("blobs", sa.column("id", sa.BigInteger), sa.column("key"), sa.column("is_ours", sa.Boolean))
    connection, last = op.get_bind(), 0
    while rows := connection.execute(
        sa.select(blobs.c.id, blobs.c.key).where(blobs.c.id > last).order_by(blobs.c.id).limit(_BATCH)
    ).all():
        last = rows[-1].id
        theirs = [row.id for row in rows if not _OURS.search(row.key)]
        if theirs:
            connection.execute(sa.update(blobs).where(blobs.c.id.in_(theirs)).values(is_ours=False))
