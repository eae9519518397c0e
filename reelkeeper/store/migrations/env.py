"""Run by Alembic for each command. The connection and its transaction belong to `reelkeeper.store.core.schema`."""

from alembic import context
from sqlmodel import SQLModel

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    transactional_ddl=True,  # Alembic's default for SQLite is False, which leaves half a schema when killed
    render_as_batch=True,
)
context.run_migrations()
