"""Add the score of each waiting job, with its indexes, and the number and the duration of the jobs in flight.

The next claims score the jobs that wait, a thousand each; until all have a score, they read the whole queue as before.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql, sqlite

revision = "0028"
down_revision = "0027"
changes_rows = frozenset({"job_totals"})  # gets one for all jobs in flight

_WAITS = "(leader_id IS NULL AND state = 'queued') IS"
_INDEXES = {
    "ix_jobs_line": (["line", "score", "created_at", "id"], _WAITS),
    "ix_jobs_line_age": (["line", "created_at", "id"], _WAITS),
    "ix_jobs_user_age": (["user_id", "created_at", "id"], _WAITS),
    "ix_jobs_sent": (["due_at", "id"], "(state = 'queued' AND provider_key IS NOT NULL) IS"),
}
_SCOPES = {"provider": "lane", "model": "model", "tier": "tier", "user": "user_id"}
_FIGURES = ("microusd", "jobs", "milliseconds")


def upgrade() -> None:
    """Add all, and count the jobs in flight."""
    op.add_column("jobs", sa.Column("line", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("score", sa.Float(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("place", sa.Integer(), nullable=False, server_default="0"))
    for name, (columns, condition) in _INDEXES.items():
        here = sa.text(f"{condition} 1")  # a constant from above
        there = sa.text(f"{condition} TRUE")  # likewise
        op.create_index(name, "jobs", columns, sqlite_where=here, postgresql_where=there)
    op.add_column("job_totals", sa.Column("jobs", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job_totals", sa.Column("milliseconds", sa.BigInteger(), nullable=False, server_default="0"))
    _count(sa.literal("all:jobs", sa.String))
    for kind, name in _SCOPES.items():
        _count(sa.literal(f"{kind}:", sa.String) + sa.column(name, sa.String), sa.column(name, sa.String))


def _count(scope: sa.ColumnElement[str], column: sa.ColumnElement[str] | None = None) -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    state, leader = sa.column("state", sa.String), sa.column("leader_id", sa.String)
    chosen: list[sa.ColumnElement[bool]] = [leader.is_(None), state.in_(["queued", "running", "parked"])]
    figures: list[Any] = [
        sa.func.sum(sa.func.coalesce(sa.column("quoted_cost_microusd"), sa.column("price_microusd"))),
        sa.func.count(),
        sa.func.sum(sa.cast(sa.func.round(sa.column("estimate_seconds") * 1_000), sa.BigInteger)),
    ]
    counted = sa.select(sa.literal("", sa.String), scope, *figures, sa.literal(0)).select_from(sa.table("jobs"))
    if column is not None:
        chosen, counted = [*chosen, column != ""], counted.group_by(column)
    else:
        counted = counted.having(sa.func.count() > 0)
    names = ["period", "scope", *_FIGURES, "refusals"]
    totals = sa.table("job_totals", *map(sa.column, names))
    insert = (sqlite.insert if is_sqlite else postgresql.insert)(totals).from_select(names, counted.where(*chosen))
    new = {name: insert.excluded[name] for name in _FIGURES}
    op.execute(insert.on_conflict_do_update(index_elements=["period", "scope"], set_=new))
