"""Seal the personal data of audit events apart, so that it can be erased and the chain still verifies.

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

revision = "0017"
down_revision = "0016"
changes_rows: frozenset[str] = frozenset({"audit_events", "deployment"})

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
_SQLITE_UPDATE = """
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
{condition}BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
_POSTGRESQL_UPDATE = """
CREATE TRIGGER {table}_only_erased BEFORE UPDATE ON {table}
FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse_{what}_change()
"""
_POSTGRESQL_APPEND_ONLY = """
CREATE TRIGGER {table}_append_only BEFORE DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_{what}_change()
"""
_REFUSES = {"audit_events": "audit", "transfers": "ledger", "entries": "ledger"}
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def upgrade() -> None:
    """Seal all earlier events. Raises IntegrityDoubt, and changes nothing, where the chain does not verify."""
    for name, kind in (("erasing_at", sa.DateTime(timezone=True)), ("pseudonym", sa.String())):
        op.add_column("users", sa.Column(name, kind, nullable=True))
    op.add_column("audit_events", sa.Column("salt", sa.String(), nullable=True))
    op.add_column("audit_events", sa.Column("seal", sa.String(), nullable=False, server_default=""))
    for table in _REFUSES:
        _allow_updates(table)
    old_head, length = _chain_anew()
    if length:
        at = datetime.now(UTC)
        detail = {"events": length, "old_head": old_head}
        row = {"event": "rechain", "run_id": "migration 0017", "video_id": None, "blob_id": None, "user_id": None}
        event = {"id": length + 1, "at": at, **row, "detail": detail}
        values = _sealed(event, _head())
        op.get_bind().execute(sa.insert(_EVENTS).values(event | values))
        op.get_bind().execute(sa.update(_END).values(audit_events=length + 1, audit_head=values["digest"]))
    # guard audit.only_erased: a mistaken statement rewrites what the record says of persons
    _refuse_updates(
        "audit_events",
        "OLD.salt IS NULL OR NEW.salt IS NOT NULL",
        ("id", "at", "event", "run_id", "blob_id", "seal", "previous", "digest"),
    )
    _refuse_updates(
        "transfers", "substr(NEW.user_id, 1, 7) <> 'erased-'", ("id", "kind", "hold_id", "amount_microusd", "at")
    )
    # guard ledger.only_erased_entries: a mistaken statement puts an entry into another user's account
    _refuse_updates("entries", "substr(NEW.account_id, 6, 7) <> 'erased-'", ("transfer_id", "amount_microusd"))


def _allow_updates(table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"DROP TRIGGER IF EXISTS {table}_no_update")
    else:
        op.execute(f"DROP TRIGGER IF EXISTS {table}_only_erased ON {table}")
        op.execute(f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}")
        # guard audit.append_only_postgresql: a mistaken statement deletes from the record of what was done
        op.execute(_POSTGRESQL_APPEND_ONLY.format(table=table, what=_REFUSES[table]))


def _refuse_updates(table: str, unless_erased: str, fixed: tuple[str, ...]) -> None:
    """Refuse each UPDATE but one that erases a user from a row, and leaves what is `fixed` as it was."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    other = "IS NOT" if is_sqlite else "IS DISTINCT FROM"
    condition = " OR ".join([unless_erased, *(f"NEW.{name} {other} OLD.{name}" for name in fixed)])
    if is_sqlite:
        op.execute(_SQLITE_UPDATE.format(table=table, condition=f"WHEN {condition}\n"))
    else:
        op.execute(_POSTGRESQL_UPDATE.format(table=table, what=_REFUSES[table], condition=condition))


def _chain_anew() -> tuple[str, int]:
    """Check each event and seal it, in order; return the previous head and length."""
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
    connection.execute(sa.update(_END).values(audit_head=head))
    return before, place


def _next(after: int) -> list[dict[str, Any]]:
    wanted = sa.select(*_BEFORE).where(_EVENTS.c.id > after).order_by(_EVENTS.c.id).limit(_BATCH)
    return [dict(row) for row in op.get_bind().execute(wanted).mappings()]


def _head() -> str:
    return str(op.get_bind().execute(sa.select(_END.c.audit_head)).scalar_one())


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
