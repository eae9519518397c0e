"""Bring a store of 0.1.0 to 0.2.0.

The number follows those of the steps that were made on the way, and are one now: a store that took them all is here.
"""

import re
from typing import Any

import sqlalchemy as sa
from alembic import op

from reelkeeper.store.migrations.records_0036 import seal_records
from reelkeeper.store.migrations.tables_0036 import (
    BIG,
    COUNT,
    FLAG,
    JSON,
    REAL,
    TEXT,
    TIME,
    create_tables,
    index_where,
    needed,
    optional,
)

revision = "0036"
down_revision = "0005"
changes_rows = frozenset({"audit_events", "cache_entries", "cache_ghosts", "charges", "deployment", "usage_days"})

_BATCH = 10_000
_UNIQUE_NAMES = {"uq": "uq_%(table_name)s_%(column_0_name)s"}  # SQLite keeps no name of a UNIQUE that was given none
_OUR_KEY = re.compile(r"/g[1-9][0-9]{0,8}-[0-9a-f]{16}\.[a-z0-9]{1,8}$", re.ASCII)  # as adapters/keys made them in 0005
_MADE_ID = re.compile(r"[A-Za-z0-9_-]{1,40}-[0-9a-f]{12}")  # of a name: a slug, and a hash
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # ends like a made one
_METRICS = (
    "'stored_bytes', 'operations', 'retrieved_bytes', 'uploaded_bytes', 'deleted_bytes', 'jobs', 'generation_seconds', "
    "'users', 'job_microusd', 'job_rebate_microusd', 'clip_jobs'"
)
_MESSAGES = {
    ("known_kind", "kind"): "'alert', 'resolve', 'digest', 'chart', 'note', 'event'",
    ("known_state", "state"): "'waiting', 'sent', 'diverted', 'withdrawn', 'given_up'",
}
# Of jobs sent before, the last attempt is known. Those that are over count already, at what was reported or expected.
_FILL_VENDOR_JOBS = """
    INSERT INTO vendor_jobs (key, job_id, provider, vendor_id, sent_at, ended_at, counted_microusd, reported_microusd)
    SELECT provider_key, id, provider, provider_job_id, COALESCE(started_at, created_at), finished_at,
        CASE WHEN finished_at IS NULL THEN NULL ELSE COALESCE(cost_microusd, quoted_cost_microusd, price_microusd) END,
        cost_microusd
    FROM jobs WHERE provider_key IS NOT NULL AND provider IS NOT NULL
"""
_FILL_JOB_TOTALS = """
    INSERT INTO job_totals (period, scope, microusd, refusals, jobs, milliseconds)
    SELECT '', {scope}, SUM(COALESCE(quoted_cost_microusd, price_microusd)), 0, COUNT(*),
        SUM(CAST(ROUND(estimate_seconds * 1000) AS BIGINT))
    FROM jobs WHERE leader_id IS NULL AND state IN ('queued', 'running', 'parked'){chosen}
"""
_FILL_CHARGE_DAYS = """
    INSERT INTO charge_days (day, sku, tier, service, consumed_quantity, consumed_unit, list_nanousd, billed_nanousd,
        estimated, provider)
    SELECT day, sku, COALESCE(tier, ''), MIN(service), SUM(consumed_quantity), MIN(consumed_unit), SUM(list_nanousd),
        SUM(billed_nanousd), MAX(CASE WHEN estimated THEN 1 ELSE 0 END) = 1, MIN(provider)
    FROM charges GROUP BY day, sku, COALESCE(tier, '')
"""
# A video has the model of its job, if known.
_FILL_MODELS = """
    UPDATE videos SET model = (SELECT MIN(model) FROM jobs WHERE video_id = videos.id AND leader_id IS NULL)
    WHERE EXISTS (SELECT 1 FROM jobs WHERE video_id = videos.id AND leader_id IS NULL)
"""


def upgrade() -> None:
    """Create what is new, and carry over what is known. Raises IntegrityDoubt, with nothing changed, of the record."""
    create_tables()
    _add_columns()
    _change_indexes()
    _let_keys_have_several_rows()
    _make_usage_days_anew()
    _keep_views_by_key()
    _drop_what_the_cache_has_no_use_for()
    seal_records()
    _remember_ids_made_of_names()
    for statement in (_FILL_VENDOR_JOBS, _FILL_MODELS, _FILL_CHARGE_DAYS):
        op.execute(statement)
    op.execute(_FILL_JOB_TOTALS.format(scope="'all:jobs'", chosen=" HAVING COUNT(*) > 0"))
    for kind, name in (("model", "model"), ("tier", "tier"), ("user", "user_id")):
        op.execute(_FILL_JOB_TOTALS.format(scope=f"'{kind}:' || {name}", chosen=f" AND {name} <> '' GROUP BY {name}"))


def _add_columns() -> None:
    """Add them, empty or with what holds of every earlier row."""
    added: dict[str, list[sa.Column[Any]]] = {
        "audit_events": [*optional(TEXT, "salt"), _filled("seal", TEXT, "")],
        "charges": [_made_under(), _filled("provider", TEXT, "")],
        "deployment": [_made_under(), _filled("policy_digest", TEXT, "")],
        "holds": [_filled("is_legal", FLAG, sa.false())],
        "jobs": [
            _made_under(),
            *optional(TEXT, "lane", "tag", "line"),
            _filled("score", REAL, "0"),
            _filled("place", COUNT, "0"),
            _filled("caller_metadata", JSON, "{}"),
            *optional(TEXT, "webhook_url"),
        ],
        "operations": [*optional(BIG, "aside_blob_id"), *optional(TIME, "sent_at")],
        "orphans": [
            *optional(TEXT, "scan_id", "verdict", "user_id", "name_id", "unique_id", "video_id"),
            *optional(COUNT, "generation", "pattern"),
            *optional(TIME, "created_at", "told_at"),
        ],
        "plans": [
            _made_under(),
            _filled("widening", JSON, "{}"),
            *optional(TIME, "approved_at"),
            *optional(TEXT, "approved_by", "approval_reason"),
        ],
        "uploads": optional(TEXT, "tag"),
        "users": [*optional(TIME, "erasing_at"), *optional(TEXT, "pseudonym")],
        "verdicts": [*optional(BIG, "net_microusd"), *optional(TEXT, "segment")],
        "videos": optional(TEXT, "model", "tag"),
    }
    for table, columns in added.items():
        for column in columns:
            op.add_column(table, column)
    with op.batch_alter_table("outbox") as batch:
        for column in optional(TEXT, "endpoint_id", "subject", "url"):
            batch.add_column(column)
        for (name, checked), values in _MESSAGES.items():
            batch.drop_constraint(name, type_="check")
            batch.create_check_constraint(name, f"{checked} IN ({values})")
    op.execute("UPDATE charges SET provider = 'Cloudflare' WHERE service LIKE 'r2-%'")


def _made_under() -> sa.Column[Any]:
    """Earlier rows have version 0, the shipped policies: the parameters of their runs are unknown."""
    return _filled("policy_version", COUNT, "0")


def _filled(name: str, kind: Any, value: Any) -> sa.Column[Any]:  # noqa: ANN401  as SQLAlchemy takes them
    return sa.Column(name, kind, nullable=False, server_default=value)


def _change_indexes() -> None:
    op.create_index("ix_orphans_scan", "orphans", ["scan_id", "key"])
    op.create_index("ix_outbox_endpoint", "outbox", ["endpoint_id", "state", "id"])
    op.create_index("ix_outbox_subject", "outbox", ["endpoint_id", "subject", "state"])
    op.create_index("ix_charges_user", "charges", ["user_id", "day"])
    op.drop_index("ix_transfers_user", "transfers")
    op.create_index("ix_transfers_user", "transfers", ["user_id", "kind", "at"])
    index_where("ix_users_present", "users", ["id"], "erasing_at IS NULL")
    op.drop_index("ix_jobs_size", "jobs")  # jobs are ranked by size and age
    op.create_index("ix_jobs_video_id", "jobs", ["video_id"])
    op.create_index("ix_jobs_user", "jobs", ["user_id", "state", "created_at"])
    waits = "(leader_id IS NULL AND state = 'queued') IS TRUE"
    index_where("ix_jobs_line", "jobs", ["line", "score", "created_at", "id"], waits)
    index_where("ix_jobs_line_age", "jobs", ["line", "created_at", "id"], waits)
    index_where("ix_jobs_user_age", "jobs", ["user_id", "created_at", "id"], waits)
    index_where("ix_jobs_sent", "jobs", ["due_at", "id"], "(state = 'queued' AND provider_key IS NOT NULL) IS TRUE")


def _let_keys_have_several_rows() -> None:
    """Let a key have several rows, of which one is open, and mark the keys that are not ours as the service's."""
    with op.batch_alter_table("blobs", naming_convention=_UNIQUE_NAMES) as batch:
        batch.add_column(sa.Column("is_ours", FLAG, nullable=False, server_default=sa.true()))
        for column in (*optional(TIME, "claimed_at"), *optional(COUNT, "claim_token")):
            batch.add_column(column)
        batch.drop_constraint(_name_of_unique(), type_="unique")
    blobs = sa.table("blobs", sa.column("id", sa.BigInteger), sa.column("key"), sa.column("is_ours", sa.Boolean))
    connection, last = op.get_bind(), 0
    while rows := connection.execute(
        sa.select(blobs.c.id, blobs.c.key).where(blobs.c.id > last).order_by(blobs.c.id).limit(_BATCH)
    ).all():
        last = rows[-1].id
        if theirs := [row.id for row in rows if not _OUR_KEY.search(row.key)]:
            connection.execute(sa.update(blobs).where(blobs.c.id.in_(theirs)).values(is_ours=False))
    with op.batch_alter_table("blobs") as batch:
        batch.alter_column("is_ours", server_default=None)
    is_open = "state <> 'gone' AND (state <> 'pending' OR is_ours)"
    index_where("one_open_row_a_key", "blobs", ["key"], is_open, unique=True)
    op.create_index("ix_blobs_key", "blobs", ["key"])


def _name_of_unique() -> str:
    if op.get_bind().dialect.name == "sqlite":
        return "uq_blobs_key"
    (unique,) = sa.inspect(op.get_bind()).get_unique_constraints("blobs")
    return str(unique["name"])


def _make_usage_days_anew() -> None:
    """Add providers, of which nothing is known for earlier days, and the metrics of jobs billed by the clip."""
    same = ("day", "metric", "source", "resource", "storage_class", "user_id", "quantity", "sampled")
    key = (*same[:6], "provider")
    if op.get_bind().dialect.name == "postgresql":
        op.add_column("usage_days", _filled("provider", TEXT, ""))
        op.drop_constraint("known_metric", "usage_days", type_="check")
        op.create_check_constraint("known_metric", "usage_days", f"metric IN ({_METRICS})")
        op.drop_constraint("usage_days_pkey", "usage_days", type_="primary")
        op.create_primary_key("usage_days_pkey", "usage_days", [*key])
        return
    op.rename_table("usage_days", "earlier_usage_days")
    op.create_table(
        "usage_days",
        *needed(sa.Date(), "day"),
        *needed(TEXT, "metric", "source", "resource", "storage_class", "user_id"),
        *needed(BIG, "quantity"),
        *needed(FLAG, "sampled"),
        _filled("provider", TEXT, ""),
        sa.CheckConstraint("source IN ('store', 'cloudflare')", name="known_source"),
        sa.CheckConstraint(f"metric IN ({_METRICS})", name="known_metric"),
        sa.PrimaryKeyConstraint(*key),
    )
    names = ", ".join(same)
    op.execute(f"INSERT INTO usage_days ({names}) SELECT {names} FROM earlier_usage_days")  # noqa: S608  constants
    op.drop_table("earlier_usage_days")


def _keep_views_by_key() -> None:
    """Keep views in their key's order on SQLite, so that a plan finds each without a second search."""
    if op.get_bind().dialect.name != "sqlite":
        return  # PostgreSQL has no such tables
    op.rename_table("daily_views", "earlier_daily_views")
    op.create_table(
        "daily_views",
        *needed(TEXT, "video_id"),
        *needed(sa.Date(), "day"),
        *needed(COUNT, "views"),
        sa.ForeignKeyConstraint(["video_id"], ["videos.id"]),
        sa.PrimaryKeyConstraint("video_id", "day"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO daily_views SELECT video_id, day, views FROM earlier_daily_views ORDER BY video_id, day")
    op.drop_table("earlier_daily_views")


def _drop_what_the_cache_has_no_use_for() -> None:
    """Drop the queues and the ghost keys of S3-FIFO: the cache is pruned by the requests that jobs record."""
    op.drop_index("ix_cache_ghosts_position", "cache_ghosts")
    op.drop_table("cache_ghosts")
    op.drop_index("ix_cache_entries_order", "cache_entries")
    with op.batch_alter_table("cache_entries") as batch:
        batch.drop_constraint("known_queue", type_="check")
        for name in ("queue", "position", "frequency"):
            batch.drop_column(name)


def _remember_ids_made_of_names() -> None:
    connection = op.get_bind()
    users = sa.table("users", sa.column("id", sa.String()))
    ids = connection.execute(sa.select(users.c.id).where(users.c.id.like("%-" + 12 * "_"))).scalars()
    if made := [item for item in ids if _MADE_ID.fullmatch(item) and not _UUID.fullmatch(item)]:
        former_ids = sa.table("former_ids", sa.column("id"), sa.column("user_id"))
        op.bulk_insert(former_ids, [{"id": item, "user_id": item} for item in made])
