"""How large the store is: rows by table, and bytes on disk."""

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import SQLModel


def rows(session: Session) -> dict[str, int]:
    """Count the rows of each table; on PostgreSQL as its statistics have them, since a count would read everything."""
    tables = sorted(SQLModel.metadata.tables)
    if session.get_bind().dialect.name == "postgresql":
        counted = session.execute(sa.text("SELECT relname, n_live_tup FROM pg_stat_user_tables"))
        known = {name: int(count) for name, count in counted}
        return {name: known.get(name, 0) for name in tables}
    counts = [
        sa.select(sa.literal(name), sa.func.count()).select_from(SQLModel.metadata.tables[name]) for name in tables
    ]
    return {name: int(count) for name, count in session.execute(sa.union_all(*counts))}


def size_bytes(session: Session) -> int:
    """Say how many bytes the store takes on disk: SQLite's file without its log, PostgreSQL's database."""
    if session.get_bind().dialect.name == "postgresql":
        return int(session.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())
    asked = ("PRAGMA page_count", "PRAGMA page_size")
    pages, page = (int(session.execute(sa.text(one)).scalar_one()) for one in asked)
    return pages * page
