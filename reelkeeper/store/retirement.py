"""What is written to a blob that nobody wants any more: it waits out its grace, and a purge deletes it then."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from reelkeeper.model import BlobState


def retired(at: datetime, grace_days: int, reason: str | sa.ScalarSelect[str | None]) -> dict[str, Any]:
    """Give the values of a blob that is retired at `at`, by the database's clock."""
    return {
        "state": BlobState.RETIRED,
        "retired_at": at,
        "purge_after": at + timedelta(days=grace_days),
        "retire_reason": reason,
    }
