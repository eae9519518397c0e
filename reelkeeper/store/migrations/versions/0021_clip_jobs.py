"""Add the number of jobs billed by the clip: others of the same model and day have a flat price."""

from alembic import op

revision = "0021"
down_revision = "0020"
changes_rows: frozenset[str] = frozenset({"usage_days"})

_KNOWN = (
    "'stored_bytes', 'operations', 'retrieved_bytes', 'uploaded_bytes', 'deleted_bytes', 'jobs', 'generation_seconds', "
    "'users', 'job_microusd', 'clip_jobs'"
)
# Until now no job had a flat price where one of its model and day was billed by the clip: these days stay as they were.
_COUNT = """
    INSERT INTO usage_days (day, metric, source, resource, storage_class, user_id, quantity, sampled)
    SELECT day, 'clip_jobs', source, resource, storage_class, user_id, quantity, sampled FROM usage_days AS counted
    WHERE metric = 'jobs' AND EXISTS (
        SELECT 1 FROM usage_days AS clips WHERE clips.metric = 'job_microusd' AND clips.user_id = ''
        AND clips.day = counted.day AND clips.resource = counted.resource)
"""


def upgrade() -> None:
    """Allow the metric, and count the jobs of days that have none."""
    with op.batch_alter_table("usage_days") as batch:
        batch.drop_constraint("known_metric", type_="check")
        batch.create_check_constraint("known_metric", f"metric IN ({_KNOWN})")
    op.execute(_COUNT)
