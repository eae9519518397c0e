"""Add the providers of usage and charges, the metric of rebates, and an index of users' charges.

Of earlier jobs it is not known.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
changes_rows = frozenset({"charges"})  # of R2, from Cloudflare

_KNOWN = (
    "'stored_bytes', 'operations', 'retrieved_bytes', 'uploaded_bytes', 'deleted_bytes', 'jobs', 'generation_seconds', "
    "'users', 'job_microusd', 'job_rebate_microusd', 'clip_jobs'"
)
_COLUMNS = ("day", "metric", "source", "resource", "storage_class", "user_id", "quantity", "sampled")
_KEY = (*_COLUMNS[:6], "provider")


def upgrade() -> None:
    """Add the columns, the metric and the index, and name Cloudflare."""
    if op.get_bind().dialect.name == "postgresql":
        op.add_column("usage_days", _provider())
        op.drop_constraint("known_metric", "usage_days", type_="check")
        op.create_check_constraint("known_metric", "usage_days", f"metric IN ({_KNOWN})")
        op.drop_constraint("usage_days_pkey", "usage_days", type_="primary")
        op.create_primary_key("usage_days_pkey", "usage_days", [*_KEY])
    else:
        _make_anew()
    op.add_column("charges", _provider())
    op.execute("UPDATE charges SET provider = 'Cloudflare' WHERE service LIKE 'r2-%'")
    op.create_index("ix_charges_user", "charges", ["user_id", "day"])


def _provider() -> sa.Column[str]:
    return sa.Column("provider", sa.String(), nullable=False, server_default="")


def _make_anew() -> None:
    op.rename_table("usage_days", "earlier_usage_days")
    types: dict[str, Any] = {"day": sa.Date(), "quantity": sa.BigInteger(), "sampled": sa.Boolean()}
    op.create_table(
        "usage_days",
        *(sa.Column(name, types.get(name, sa.String()), nullable=False) for name in _COLUMNS),
        _provider(),
        sa.CheckConstraint("source IN ('store', 'cloudflare')", name="known_source"),
        sa.CheckConstraint(f"metric IN ({_KNOWN})", name="known_metric"),
        sa.PrimaryKeyConstraint(*_KEY),
    )
    names = ", ".join(_COLUMNS)
    op.execute(f"INSERT INTO usage_days ({names}) SELECT {names} FROM earlier_usage_days")  # noqa: S608  constants
    op.drop_table("earlier_usage_days")
