"""${message}.

A batch operation on SQLite makes the table anew and drops its triggers: those of audit_events must be made again.
"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Change the schema."""
    ${upgrades if upgrades else "pass"}
