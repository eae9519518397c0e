"""Move a store between SQLite and PostgreSQL: compared row by row, and never are both at work.

The old store takes no write until the new one is whole, and is then marked as moved, which nothing thaws. The new one
is marked as arriving until then. A move that was killed is run again: it goes on with the tables that are empty.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from reelkeeper.errors import Frozen, IntegrityDoubt, Refused, StoreBehind
from reelkeeper.store.core import deployment, epochs
from reelkeeper.store.core.audit import ARRIVING, MOVED, Event, append, verify
from reelkeeper.store.core.backup import ADD_CYCLE, DROP_CYCLE, count_on, driver, require_empty
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.schema import deployment as read_deployment
from reelkeeper.store.core.schema import hold_up_writers, require_current, upgrade_at
from reelkeeper.store.tables import deployment as deployments
from reelkeeper.store.tables import policy_versions

_AT_ONCE: Final = 10_000  # rows in memory
_TABLES: Final = [table for table in SQLModel.metadata.sorted_tables if table is not deployments]
_OTHERS: Final = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND coalesce(backend_type, 'client backend') = 'client backend'"
)


def move(source: sa.Engine, url: str, *, by: str, tell: Callable[[str, int], object]) -> dict[str, int]:
    """Move `source` to the empty database at `url`; return the rows by table, which `tell` hears of as they are copied.

    Raises Refused while another process has the store open, or where the new place holds another, Frozen where changes
    are stopped, StoreBehind for a store that was copied or restored, IntegrityDoubt where the two differ at the end,
    SchemaError. The old store then works as before.
    """
    require_current(source)
    target = open_engine(url)
    sa.event.listen(target, "connect", _set_references_aside)
    to = target.url.render_as_string()
    try:
        if not _is_moved(source, to):
            _require_unused(source)
            _require_room(source, target, url)
            upgrade_at(url)
            with transaction(source, "move.mark") as old:
                hold_up_writers(old.connection())
                # guard move.frozen_since: a store that is frozen as its move begins is thawed, beside the new one
                _require_at_work(old)
                _arrive(old, target, url)
                for table in _TABLES:
                    with transaction(target, "move.table") as new:
                        tell(table.name, _fill(old, new, table))
                with transaction(target, "move.check") as new:
                    _check(old, new)
                    home = epochs.home(new)
                # guard move.home: what still works with the old store tells the bucket, and the new one is behind
                epochs.set_marks(old, {epochs.HOME: home})
                append(old, [Event("move_store", by, detail={"to": to})])
                # guard move.marked: the old store goes on beside the new one, and deletes what that keeps
                deployment.stop(old, by=MOVED, reason=f"moved to {to}")
        with transaction(target, "move.begin") as new:
            if read_deployment(new).frozen_by != ARRIVING:
                raise Refused(f"the store was moved to {to} before, which is at work; nothing was changed")
            deployment.let_go_on(new)
            epochs.set_marks(new, {epochs.HOME: epochs.home(new)})
            append(new, [Event("move_store", by, detail={"from": source.url.render_as_string()})])
            return {table.name: new.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in _TABLES}
    finally:
        target.dispose()


def _is_moved(source: sa.Engine, to: str) -> bool:
    """Check whether the old store is marked as moved there already: only the last step is then left."""
    with reading(source) as session:
        row = read_deployment(session)
        if row.frozen_by == MOVED and row.frozen_reason == f"moved to {to}":
            return True
        _require_at_work(session)
    return False


def _require_at_work(session: Session) -> None:
    """Require a store whose changes are not stopped, and which is not a copy."""
    row = read_deployment(session)
    # guard move.frozen: changes that were stopped for a reason go on in the new store
    if row.frozen_at:
        raise Frozen(f"changes are stopped by {row.frozen_by}: {row.frozen_reason}. Nothing was moved: thaw first")
    # guard move.away: a copy of the store counts as the original once it was moved, and purges what that has held
    if why := epochs.why_away(session):
        raise StoreBehind(f"{why}. Nothing was moved: reelkeeper db adopt first")


def _require_unused(source: sa.Engine) -> None:
    """Require that no other process has the store open: it would go on with the old one."""
    source.dispose()
    # guard move.unused: what other processes write while the store is moved is lost
    if others := _others_on_sqlite(source) if source.dialect.name == "sqlite" else _others_on_postgresql(source):
        raise Refused(
            f"{others} the store open; nothing was moved. Stop the workers, the API and `reelkeeper up`, then try again"
        )


def _others_on_sqlite(source: sa.Engine) -> str:
    with closing(sqlite3.connect(Path(str(source.url.database)), timeout=1)) as alone:
        try:
            alone.execute("PRAGMA journal_mode=DELETE")  # which SQLite allows to the only connection
        except sqlite3.OperationalError:
            return "another process has"
    return ""


def _others_on_postgresql(source: sa.Engine) -> str:
    others = 0
    for wait in (0.0, 0.1, 0.4, 1.5):  # the server ends the process of a connection a moment after it was closed
        time.sleep(wait)
        with reading(source) as session:
            others = session.execute(_OTHERS).scalar_one()
        if not others:
            break
    return f"other connections ({others}) have" if others else ""


def _require_room(source: sa.Engine, target: sa.Engine, url: str) -> None:
    """Require a database without a store of its own, before its schema is touched."""
    with reading(source) as old, reading(target) as new:
        identity = deployment.identity(old)
        if _is_arriving(new, identity):
            return
        # guard move.itself: a move to the same place, spelt otherwise, waits for ever for the lock that it holds
        if deployment.owner(target) == identity:
            raise Refused(f"the database at {sa.make_url(url)!r} has this store already; nothing was changed")
        # guard move.untouched: another store, of an older version, is upgraded on the way to its refusal
        require_empty(new, url)


def _is_arriving(new: Session, identity: str) -> bool:
    """Check whether an earlier try has marked this place for the store; it may be of any version, or hold nothing."""
    if not sa.inspect(new.connection()).has_table(deployments.name):
        return False
    return new.execute(sa.select(deployments.c.id, deployments.c.frozen_by)).one_or_none() == (identity, ARRIVING)


def _arrive(old: Session, target: sa.Engine, url: str) -> None:
    """Mark the new store as the place where this one arrives; it changes nothing until the move has ended."""
    identity = deployment.identity(old)
    with transaction(target, "move.arrive") as new:
        if _is_arriving(new, identity):
            return
        # guard move.empty: another store is overwritten
        require_empty(new, url)
        new.execute(sa.delete(policy_versions))  # a new store has one
        new.execute(sa.update(deployments).values(id=identity))
        deployment.stop(new, by=ARRIVING, reason="the move here has not ended: run it again")
        if new.get_bind().dialect.name == "postgresql":
            new.execute(DROP_CYCLE)


def _fill(old: Session, new: Session, table: sa.Table) -> int:
    """Copy a table that is empty; return how many rows were copied."""
    if new.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
        return 0
    copied = 0
    with _writer(new, table) as write:
        for batch in _rows(old, table):
            write(batch)
            copied += len(batch)
    return copied


@contextmanager
def _writer(new: Session, table: sa.Table) -> Iterator[Callable[[Sequence[sa.Row[Any]]], object]]:
    """Yield what adds rows. On PostgreSQL one COPY takes them all: jobs refer to jobs, checked when it ends."""
    if new.get_bind().dialect.name == "sqlite":
        names = table.c.keys()
        yield lambda rows: new.execute(sa.insert(table), [dict(zip(names, row, strict=True)) for row in rows])
        return
    dialect = new.get_bind().dialect
    adapt = [column.type.dialect_impl(dialect).bind_processor(dialect) or _as_it_is for column in table.c]
    columns = sql.SQL(", ").join(map(sql.Identifier, table.c.keys()))
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), columns)
    with driver(new).cursor() as cursor, cursor.copy(into) as copied:

        def write(rows: Sequence[sa.Row[Any]]) -> None:
            for row in rows:
                copied.write_row([to(value) for to, value in zip(adapt, row, strict=True)])

        yield write


def _as_it_is(value: object) -> object:
    return value


def _rows(session: Session, table: sa.Table) -> Iterator[Sequence[sa.Row[Any]]]:
    return session.execute(sa.select(table), execution_options={"yield_per": _AT_ONCE}).partitions()


def _check(old: Session, new: Session) -> None:
    """Compare all rows, their references and the audit record. Raises IntegrityDoubt."""
    for table in _TABLES:
        # guard move.compared: rows that were lost or changed on the way are noticed when they are needed
        if (here := _content(new, table)) != (there := _content(old, table)):
            raise IntegrityDoubt(
                f"{table.name} has {there[0]} rows, and {here[0]} in the new store, or others: the old store was used "
                "after a move that did not end. It goes on as before. Move to a database that is empty"
            )
    row = read_deployment(old).model_dump(exclude={"frozen_at", "frozen_by", "frozen_reason"})
    new.execute(sa.update(deployments).values(row))
    if new.get_bind().dialect.name == "postgresql":
        new.execute(DROP_CYCLE)  # an earlier try may have come this far
        new.execute(ADD_CYCLE)
        count_on(new)
    elif broken := new.execute(sa.text("PRAGMA foreign_key_check")).first():
        raise IntegrityDoubt(f"the store refers to rows that it does not have: {broken}; nothing was changed")
    verify(new)


def _content(session: Session, table: sa.Table) -> tuple[int, int]:
    """Count the rows of a table, and add up their hashes, whatever their order."""
    rows = total = 0
    for batch in _rows(session, table):
        rows += len(batch)
        total += sum(hash(repr(tuple(row))) for row in batch)
    return rows, total


def _set_references_aside(connection: Any, _record: object) -> None:  # noqa: ANN401  a driver's, of either database
    """Have SQLite check references at the end: tables are filled one by one, and two refer to each other."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA foreign_keys=OFF")
