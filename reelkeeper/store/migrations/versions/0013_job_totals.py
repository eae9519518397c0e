"""Add the provider of a job, and the costs of jobs, past and in flight, by provider, model, tier and user."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_SCOPES = {"model": "model", "tier": "tier", "user": "user_id"}  # the provider of earlier jobs is unknown


def upgrade() -> None:
    """Add both. Jobs in flight are counted; earlier spending counts in no budget of a scope."""
    op.add_column("jobs", sa.Column("lane", sa.String(), nullable=True))
    op.create_table(
        "job_totals",
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("microusd", sa.BigInteger(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("period", "scope"),
    )
    jobs, totals = _jobs(), sa.table("job_totals", *map(sa.column, ("period", "scope", "microusd", "refusals")))
    leads = sa.and_(jobs.c.leader_id.is_(None), jobs.c.state.in_(["queued", "running", "parked"]))
    cost = sa.func.sum(sa.func.coalesce(jobs.c.quoted_cost_microusd, jobs.c.price_microusd))
    for kind, name in _SCOPES.items():
        column = jobs.c[name]
        scope = sa.literal(f"{kind}:", sa.String) + column
        summed = sa.select(sa.literal(""), scope, cost, sa.literal(0)).where(leads, column != "").group_by(column)
        op.execute(sa.insert(totals).from_select(["period", "scope", "microusd", "refusals"], summed))


def _jobs() -> sa.TableClause:
    names = ("leader_id", "state", "quoted_cost_microusd", "price_microusd", *_SCOPES.values())
    return sa.table("jobs", *(sa.column(name, sa.String) for name in names))
