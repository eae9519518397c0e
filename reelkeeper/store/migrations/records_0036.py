"""Seal the personal data of the audit record, and let an erasure and a rename reach what may only grow.

Every event gets a salt of its own and a seal over its personal part, and the chain is made anew over the seals. An
event at the end, `rechain`, states how many events there were and the head of the chain as it was.
"""

import hashlib
import json
import secrets
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from reelkeeper.errors import IntegrityDoubt

_BATCH = 2_000
_EVENTS = sa.table(
    "audit_events",
    sa.column("id", sa.BigInteger),
    sa.column("at", sa.DateTime(timezone=True)),
    *(sa.column(name, sa.String) for name in ("event", "run_id", "video_id", "user_id", "previous", "digest")),
    sa.column("blob_id", sa.BigInteger),
    sa.column("detail", sa.JSON),
    sa.column("salt", sa.String),
    sa.column("seal", sa.String),
)
_BEFORE = [column for column in _EVENTS.c if column.name not in {"salt", "seal"}]
_END = sa.table("deployment", sa.column("audit_events", sa.Integer), sa.column("audit_head", sa.String))
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode

_REFUSES = {"audit_events": "audit", "transfers": "ledger", "entries": "ledger"}
_SQLITE_UPDATE = """
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
WHEN {condition}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
_POSTGRESQL_UPDATE = """
CREATE TRIGGER {table}_only_erased BEFORE UPDATE ON {table}
FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse_{what}_change()
"""
_POSTGRESQL_APPEND_ONLY = """
CREATE TRIGGER {table}_append_only BEFORE DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_{what}_change()
"""
# What may not change as an erasure replaces the user of a row.
_FIXED = {
    "audit_events": ("id", "at", "event", "run_id", "blob_id", "seal", "previous", "digest"),
    "transfers": ("id", "kind", "hold_id", "amount_microusd", "at"),
    "entries": ("transfer_id", "amount_microusd"),
}
_NO_USER = {  # an update that erases nobody
    # guard audit.only_erased: a mistaken statement rewrites what the record says of persons
    "audit_events": "OLD.salt IS NULL OR NEW.salt IS NOT NULL",
    # A user's id may also be in the reason of another user's transfer.
    # guard ledger.only_erased: a mistaken statement gives a move of credits to another user
    "transfers": "(substr(NEW.user_id, 1, 7) <> 'erased-' AND NOT (NEW.user_id = OLD.user_id AND "
    "NEW.idempotency_key = OLD.idempotency_key AND NEW.request_sha256 = OLD.request_sha256 AND "
    "CAST(NEW.detail AS TEXT) LIKE '%erased-%'))",
    # guard ledger.only_erased_entries: a mistaken statement puts an entry into another user's account
    "entries": "substr(NEW.account_id, 6, 7) <> 'erased-'",
}
# A row of the ledger may move to the id that its user has now, and nothing else of it may change.
_MOVES = {"transfers": "user_id", "entries": "account_id"}
_RENAMED = {
    "transfers": "EXISTS (SELECT 1 FROM former_ids WHERE id = OLD.user_id AND user_id = NEW.user_id)",
    "entries": "substr(NEW.account_id, 1, 5) = substr(OLD.account_id, 1, 5) AND EXISTS (SELECT 1 FROM former_ids "
    "WHERE id = substr(OLD.account_id, 6) AND user_id = substr(NEW.account_id, 6))",
}
_SAME = {
    "transfers": ("id", "idempotency_key", "request_sha256", "kind", "hold_id", "amount_microusd", "at", "detail"),
    "entries": _FIXED["entries"],
}
_POSTGRESQL_REFUSE = """
CREATE OR REPLACE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN {unless}RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$
"""
_UNLESS = """
IF TG_OP = 'UPDATE' AND TG_LEVEL = 'ROW' AND TG_TABLE_NAME = '{table}' THEN
  IF to_jsonb(NEW) - '{moves}' = to_jsonb(OLD) - '{moves}' AND {renamed} THEN RETURN NEW; END IF;
END IF;
"""


def seal_records() -> None:
    """Seal all earlier events. Raises IntegrityDoubt, and changes nothing, where the chain does not verify."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, what in _REFUSES.items():
        if is_sqlite:
            op.execute(f"DROP TRIGGER IF EXISTS {table}_no_update")
        else:
            op.execute(f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}")
            # guard audit.append_only_postgresql: a mistaken statement deletes from the record of what was done
            op.execute(_POSTGRESQL_APPEND_ONLY.format(table=table, what=what))
    _chain_anew()
    for table in _REFUSES:
        _refuse_updates(table, is_sqlite=is_sqlite)
    if not is_sqlite:
        unless = (_UNLESS.format(table=table, moves=_MOVES[table], renamed=text) for table, text in _RENAMED.items())
        op.execute(_POSTGRESQL_REFUSE.format(unless="".join(unless)))


def _refuse_updates(table: str, *, is_sqlite: bool) -> None:
    """Refuse each UPDATE but one that erases a user from a row, or lets it follow a user who was renamed."""
    other = "IS NOT" if is_sqlite else "IS DISTINCT FROM"
    condition = " OR ".join([_NO_USER[table], *(f"NEW.{name} {other} OLD.{name}" for name in _FIXED[table])])
    if not is_sqlite:
        op.execute(_POSTGRESQL_UPDATE.format(table=table, what=_REFUSES[table], condition=condition))
        return
    if renamed := _RENAMED.get(table):
        # guard ledger.only_renamed: a mistaken statement changes an amount together with the user
        same = [f"NEW.{name} IS OLD.{name}" for name in _SAME[table]]
        condition = f"({condition}) AND NOT ({' AND '.join([*same, renamed])})"
    op.execute(_SQLITE_UPDATE.format(table=table, condition=condition))


def _chain_anew() -> None:
    """Check each event and seal it, in order; then state it in an event of its own."""
    connection, place, before, head = op.get_bind(), 0, "", ""
    while rows := _next(place):
        changed = []
        for row in rows:
            place += 1
            event = {column.name: row[column.name] for column in _BEFORE}
            # guard audit.migrated: a record that was changed verifies again once it is chained anew
            if (row["id"], row["previous"], row["digest"]) != (place, before, _digest_before(event, before)):
                raise IntegrityDoubt(f"audit event {place} is not what was written; nothing was changed")
            before = row["digest"]
            values = _sealed(event, head)
            head = values["digest"]
            changed.append({"place": row["id"], **values})
        statement = sa.update(_EVENTS).where(_EVENTS.c.id == sa.bindparam("place"))
        connection.execute(
            statement.values({name: sa.bindparam(name) for name in changed[0] if name != "place"}), changed
        )
    told_length, told_head = connection.execute(sa.select(_END)).one_or_none() or (0, "")
    if (told_length, told_head) != (place, before):
        raise IntegrityDoubt(f"the audit record has {place} events, and should have {told_length}; nothing was changed")
    if not place:
        return
    row = {"event": "rechain", "run_id": "migration 0036", "video_id": None, "blob_id": None, "user_id": None}
    event = {"id": place + 1, "at": datetime.now(UTC), **row, "detail": {"events": place, "old_head": before}}
    values = _sealed(event, head)
    connection.execute(sa.insert(_EVENTS).values(event | values))
    connection.execute(sa.update(_END).values(audit_events=place + 1, audit_head=values["digest"]))


def _next(after: int) -> list[dict[str, Any]]:
    wanted = sa.select(*_BEFORE).where(_EVENTS.c.id > after).order_by(_EVENTS.c.id).limit(_BATCH)
    return [dict(row) for row in op.get_bind().execute(wanted).mappings()]


def _iso(at: datetime) -> str:
    aware = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)  # SQLite's have no zone, and are in UTC
    return aware.isoformat(timespec="microseconds")


def _digest_before(event: dict[str, Any], previous: str) -> str:
    """Compute the digest as before this revision: of the whole event."""
    whole = {name: event[name] for name in ("event", "run_id", "video_id", "blob_id", "user_id", "detail", "id")}
    whole["at"] = _iso(event["at"])
    return hashlib.sha256(f"{previous}{_canonical(whole)}".encode()).hexdigest()


def _sealed(event: dict[str, Any], previous: str) -> dict[str, Any]:
    """Compute salt, seal and digest, as the audit module does."""
    salt = secrets.token_hex(16)
    personal = {name: event[name] for name in ("video_id", "user_id", "detail")}
    seal = hashlib.sha256(f"{salt}{_canonical(personal)}".encode()).hexdigest()
    whole = {name: event[name] for name in ("id", "event", "run_id", "blob_id")} | {
        "at": _iso(event["at"]),
        "figures": {
            name: value for name, value in event["detail"].items() if value is None or isinstance(value, int | float)
        },
        "seal": seal,
    }
    digest = hashlib.sha256(f"{previous}{_canonical(whole)}".encode()).hexdigest()
    return {"salt": salt, "seal": seal, "previous": previous, "digest": digest}
