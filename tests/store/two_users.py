"""Fill every table that names a user with a row of each user, change these rows, and read them back."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import SQLModel

from reelkeeper.store import Session
from reelkeeper.store.billing import ledger
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.removals.personal_data import FATES, Fate
from reelkeeper.store.tables import (
    accounts,
    alerts,
    blobs,
    cache_entries,
    entries,
    holds,
    job_totals,
    jobs,
    key_owners,
    leases,
    orphans,
    outbox,
    snoozes,
    uploads,
    users,
    vendor_jobs,
    verdicts,
    videos,
)
from reelkeeper.store.tables.columns import UtcDateTime

Row = dict[str, Any]
Setup = dict[str, Row]  # by table: the values that all its rows get
AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
NUMBERS: Final = {"ann": 1, "bob": 2}  # of the rows that the database counts
VIDEO: Final = "videos of ann"
HELD_PLAN: Final[sa.ColumnElement[Any]] = sa.literal_column(  # the name of a lease
    f"CASE name WHEN 'video/{VIDEO}' THEN 'plan/plans 1' ELSE name END"
)
_NOT_HERE: Final = ("deployment", "audit_events", "policy_versions")  # of nobody, or erased with their salts
_ALIKE: Final = ("rule", "period", "level", "model")


def rows_of(name: str) -> Iterator[tuple[sa.Table, Row]]:
    """Make a row of each table, and more where one table has several kinds of them."""
    for table in SQLModel.metadata.sorted_tables:
        told = FATES[table.name]
        if table.name not in _NOT_HERE and (isinstance(told, Fate) or {*told.values()} != {Fate.KEPT}):
            for more in _kinds(table, name):
                yield table, {column.name: _value(column, name) for column in table.c} | more


def _value(column: sa.Column[Any], name: str) -> Any:  # noqa: ANN401  of any column
    """Make a value that names the user where the column is a text, and refers to the user's rows where it should."""
    refers = {"user_id": name, "video_id": f"videos of {name}", "blob_id": NUMBERS[name], "notice_id": NUMBERS[name]}
    if column.table is users:
        refers["id"] = name
    by_type: dict[type[sa.types.TypeEngine[Any]], Any] = {
        sa.JSON: {"width": 64, "said": f"{column.name} of {name}"},
        sa.Integer: NUMBERS[name] if column.primary_key else 7,
        sa.Float: 0.5,
        sa.Boolean: False,
        sa.Date: date(2026, 1, 1),
        sa.LargeBinary: b"picture",
        UtcDateTime: AT + timedelta(days=NUMBERS[name]),
    }
    typed = [value for kind, value in by_type.items() if isinstance(column.type, kind)] or [_text(column, name)]
    return refers.get(column.name, typed[0])


def _text(column: sa.Column[Any], name: str) -> str:
    """Take the first of the values that a column may have, or else name its table and the user, as a reference does.

    What one table has of both users, as a cost of one item and day, is named alike.
    """
    for rule in column.table.constraints:
        if isinstance(rule, sa.CheckConstraint) and str(rule.sqltext).startswith(f"{column.name} IN"):
            return str(rule.sqltext).split("'")[1]
    is_alike = column.primary_key and len(column.table.primary_key) > 1 and not column.name.endswith("_id")
    if is_alike or column.name in _ALIKE:
        return column.name
    refers = [key.column.table.name for key in column.foreign_keys] + [str(column.table.name)] * (column.name == "id")
    what = refers[0] if refers else column.name
    return f"{what} {NUMBERS[name]}" if refers and what != "videos" else f"{what} of {name}"


def _kinds(table: sa.Table, name: str) -> list[Row]:
    scope = {"scope": f"user:{name}"}
    several: dict[sa.Table, list[Row]] = {
        alerts: [scope],
        snoozes: [scope],
        job_totals: [scope],
        blobs: [
            {"key": f"{name}/key", "state": "live"},
            {"id": NUMBERS[name] + 10, "key": f"{name}/put", "video_id": None},
        ],
        uploads: [{"video_id": f"upload of {name}", "blob_id": NUMBERS[name] + 10}],
        # whose they are is told by the user, by the video, or by the bytes alone
        orphans: [
            {"key": f"{name}/orphan", "video_id": None},
            {"key": f"2 of {name}", "user_id": None},
            {"key": f"{name}/put", "user_id": None, "video_id": None},
        ],
        key_owners: [
            {"key": f"1 of {name}", "video_id": None},
            {"key": f"2 of {name}", "user_id": None},
            {"key": f"{name}/key", "user_id": None, "video_id": None},
        ],
        cache_entries: [{}, {"key": f"2 of {name}", "user_id": None}],
        verdicts: [{"video_id": None}, {"blob_id": NUMBERS[name] + 10, "user_id": None}],
        leases: [{"name": f"video/{of} of {name}"} for of in ("videos", "upload")],
        holds: [
            {"id": f"1 of {name}", "scope": "user", "subject": name},
            {"id": f"2 of {name}", "scope": "video", "subject": f"videos of {name}"},
        ],
        accounts: [{"id": f"{kind}/{name}", "kind": kind} for kind in ("user", "held")],
        entries: [{"account_id": f"{kind}/{name}"} for kind in ("user", "held")],
        videos: [{"blob_id": None, "state": "live"}],
        jobs: [{"leader_id": None}],
        users: [{"pseudonym": None, "erasing_at": None}],
        outbox: [
            {"endpoint_id": None},
            {"id": NUMBERS[name] + 10, "payload": {"type": "job.ended", "data": {"user_id": name}}},  # an event
        ],
    }
    return several.get(table, [{}])


def give_rows(engine: sa.Engine, *names: str) -> None:
    """Write all rows of these users."""
    with transaction(engine, "test") as session:
        for name in names:
            for table, row in rows_of(name):
                session.execute(sa.insert(table).values(row))
            session.execute(sa.update(videos).where(videos.c.user_id == name).values(blob_id=NUMBERS[name]))
            ledger.open_accounts(session, name)  # the house's


def set_values(session: Session, setup: Setup) -> None:
    """Set these values in all rows of their tables."""
    for table, values in setup.items():
        session.execute(sa.update(SQLModel.metadata.tables[table]).values(values))


def read_rows(engine: sa.Engine) -> dict[str, list[Row]]:
    """Read all rows of the tables that these users have rows in."""
    names = dict.fromkeys(table.name for table, _ in rows_of("ann"))
    with reading(engine) as session:
        found = {name: session.execute(sa.select(SQLModel.metadata.tables[name])).mappings() for name in names}
        return {name: sorted(map(dict, rows), key=repr) for name, rows in found.items()}


def send_jobs(engine: sa.Engine, *names: str) -> None:
    """Write that a vendor has each user's job, which is not over there."""
    with transaction(engine, "test") as session:
        for name in names:
            sent = {"key": f"provider_key of {name}", "job_id": f"jobs {NUMBERS[name]}", "sent_at": AT}
            session.execute(sa.insert(vendor_jobs).values(sent | {"provider": "fal", "vendor_id": name}))
