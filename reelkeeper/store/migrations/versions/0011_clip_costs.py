"""Add the metric of what jobs cost whose vendors bill by the clip."""

from alembic import op

revision = "0011"
down_revision = "0010"

_KNOWN = (
    "'stored_bytes', 'operations', 'retrieved_bytes', 'uploaded_bytes', 'deleted_bytes', 'jobs', 'generation_seconds', "
    "'users', 'job_microusd'"
)


def upgrade() -> None:
    """Allow the metric. Earlier days have none, and are charged as before."""
    with op.batch_alter_table("usage_days") as batch:
        batch.drop_constraint("known_metric", type_="check")
        batch.create_check_constraint("known_metric", f"metric IN ({_KNOWN})")
