"""Messages that are not alerts, as an operation puts them into the outbox."""

import sqlalchemy as sa

from reelkeeper.operations.alerts import alerts
from reelkeeper.store.core.engine import transaction


def post(engine: sa.Engine, title: str, text: str = "") -> int:
    """Put a message into the outbox, and return its id."""
    with transaction(engine, "test") as session:
        return alerts.post(session, title, text)
