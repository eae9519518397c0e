"""Values of a blob that is retired: it waits out its grace, and a purge deletes it then."""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from reelkeeper.model import BlobState, Grace
from reelkeeper.store.tables import blobs


def retired(at: datetime, grace: Grace, reason: str | sa.ScalarSelect[str | None]) -> dict[str, Any]:
    """Return the values for an UPDATE of blobs that are retired at `at`, by the database's clock."""
    return {
        "state": BlobState.RETIRED,
        "retired_at": at,
        "purge_after": after_grace(at, grace),
        "retire_reason": reason,
    }


def after_grace(at: datetime, grace: Grace) -> sa.ColumnElement[datetime]:
    """Return in SQL when a blob's grace is over that begins at `at`: it depends on whose key it is."""
    return by_owner(at + timedelta(days=grace.days), at + timedelta(days=grace.service_days))


def by_owner(ours: datetime, the_services: datetime) -> sa.ColumnElement[datetime]:
    """Return in SQL one of two moments, by whose key a blob stands at."""
    typed = blobs.c.purge_after.type
    return sa.case((blobs.c.is_ours, sa.literal(ours, typed)), else_=sa.literal(the_services, typed))
