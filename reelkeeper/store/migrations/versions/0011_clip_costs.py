"""Add the metric of what jobs cost whose vendors bill by the clip."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
changes_rows: frozenset[str] = frozenset()

_KNOWN = (
    "'stored_bytes', 'operations', 'retrieved_bytes', 'uploaded_bytes', 'deleted_bytes', 'jobs', 'generation_seconds', "
    "'users'"
)


def upgrade() -> None:
    """Allow the metric. Earlier days have none, and are charged as before."""
    _allow(f"{_KNOWN}, 'job_microusd'")


def downgrade() -> None:
    """Undo it. Such jobs are charged by their number again."""
    op.execute("DELETE FROM usage_days WHERE metric = 'job_microusd'")
    _allow(_KNOWN)


def _allow(metrics: str) -> None:
    with op.batch_alter_table("usage_days") as batch:
        batch.drop_constraint("known_metric", type_="check")
        batch.create_check_constraint("known_metric", f"metric IN ({metrics})")
