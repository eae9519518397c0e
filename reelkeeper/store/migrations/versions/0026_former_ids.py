"""Add the ids that users had, with those that were made of names: a slug, and 12 hex digits of a hash.

The rows of the ledger may move to the id that their user has now, and nothing else of them may change.
"""

import re

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"

_MADE = re.compile(r"[A-Za-z0-9_-]{1,40}-[0-9a-f]{12}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # ends like a made one
_RENAMED = {
    "transfers": "EXISTS (SELECT 1 FROM former_ids WHERE id = OLD.user_id AND user_id = NEW.user_id)",
    "entries": "substr(NEW.account_id, 1, 5) = substr(OLD.account_id, 1, 5) AND EXISTS (SELECT 1 FROM former_ids "
    "WHERE id = substr(OLD.account_id, 6) AND user_id = substr(NEW.account_id, 6))",
}
_MOVES = {"transfers": "user_id", "entries": "account_id"}
_SAME = {
    "transfers": ("id", "idempotency_key", "request_sha256", "kind", "hold_id", "amount_microusd", "at", "detail"),
    "entries": ("transfer_id", "amount_microusd"),
}
_REFUSE = """
CREATE OR REPLACE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN {unless}RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$
"""
_UNLESS = """
IF TG_OP = 'UPDATE' AND TG_LEVEL = 'ROW' AND TG_TABLE_NAME = '{table}' THEN
  IF to_jsonb(NEW) - '{moves}' = to_jsonb(OLD) - '{moves}' AND {renamed} THEN RETURN NEW; END IF;
END IF;
"""


def upgrade() -> None:
    """Add the table, and let the ledger's rows follow a user."""
    former_ids = op.create_table(
        "former_ids",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_former_ids_user_id", "former_ids", ["user_id"])
    users = sa.table("users", sa.column("id", sa.String()))
    ids = op.get_bind().execute(sa.select(users.c.id).where(users.c.id.like("%-" + 12 * "_")))
    made = [item for item in ids.scalars() if _MADE.fullmatch(item) and not _UUID.fullmatch(item)]
    if made:
        op.bulk_insert(former_ids, [{"id": item, "user_id": item} for item in made])
    if op.get_bind().dialect.name == "sqlite":
        for table, renamed in _RENAMED.items():
            # guard ledger.only_renamed: a mistaken statement changes an amount together with the user
            same = [f"NEW.{name} IS OLD.{name}" for name in _SAME[table]]
            _change_trigger(table, r"WHEN (.*)\nBEGIN", rf"WHEN (\1) AND NOT ({' AND '.join([*same, renamed])})\nBEGIN")
    else:
        unless = (_UNLESS.format(table=table, moves=_MOVES[table], renamed=text) for table, text in _RENAMED.items())
        op.execute(_REFUSE.format(unless="".join(unless)))


def _change_trigger(table: str, pattern: str, by: str) -> None:
    """Change the condition under which SQLite refuses an update."""
    name = f"{table}_no_update"
    known = sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name")
    text = op.get_bind().execute(known, {"name": name}).scalar_one()
    op.execute(f"DROP TRIGGER {name}")
    op.execute(re.sub(pattern, by, text, count=1, flags=re.DOTALL))
