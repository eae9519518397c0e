"""Choose the old rows of each kind that may be deleted, where two users have the same rows on two days."""

from datetime import timedelta
from typing import Final

import pytest
import sqlalchemy as sa

from reelkeeper.store.core.engine import transaction
from reelkeeper.store.core.prune_records import KINDS
from tests.store.two_users import AT, HELD_PLAN, Setup, set_values

CUTOFF: Final = AT + timedelta(days=2)  # after ann's rows, and of the moment of bob's
PURGED: Final[Setup] = {"blobs": {"state": "gone"}, "operations": {"state": "done"}}
APPLIED: Final[Setup] = {"plans": {"flow": "tier_storage", "state": "applied"}}
ENDED: Final[Setup] = {"jobs": {"state": "succeeded"}}
TOLD: Final[Setup] = {"outbox": {"state": "sent"}, "alerts": {"message_id": None}}

CASES: Final[list[tuple[str, Setup, list[str]]]] = [
    ("outbox", TOLD, ["1", "11"]),
    ("outbox", TOLD | {"outbox": {"state": "waiting"}}, []),
    ("outbox", TOLD | {"alerts": {"message_id": 1}}, ["11"]),
    ("outbox", TOLD | {"alerts": {"message_id": 1, "state": "resolved"}}, ["1", "11"]),
    ("notices", {}, []),
    ("notice_deliveries", {}, ["1 endpoint_id of ann"]),
    ("notice_deliveries", {"notices": {"ended_at": None}}, []),
    ("notice_deliveries", {"notices": {"ended_at": None}, "videos": {"state": "gone"}}, ["1 endpoint_id of ann"]),
    ("verdicts", APPLIED, ["plans 1 1", "plans 1 11"]),
    ("verdicts", APPLIED | {"verdicts": {"outcome": "purged"}}, []),
    ("verdicts", APPLIED | {"leases": {"name": HELD_PLAN}}, []),
    ("verdicts", APPLIED | {"plans": {"state": "applied"}}, []),
    ("verdicts", APPLIED | {"plans": {"flow": "tier_storage", "state": "ready"}}, []),
    ("plans", APPLIED, []),
    ("vendor_jobs", ENDED, ["provider_key of ann"]),
    ("vendor_jobs", ENDED | {"jobs": {"state": "running"}}, []),
    ("vendor_jobs", ENDED | {"jobs": {"state": "succeeded", "leader_id": "jobs 1"}}, []),
    ("vendor_jobs", ENDED | {"jobs": {"state": "succeeded", "leader_id": "jobs 2"}}, ["provider_key of ann"]),
    ("jobs", ENDED, []),
    ("uploads", {"reservations": {"state": "settled"}, "blobs": {"video_id": "videos of ann"}}, ["uploads 1"]),
    ("uploads", {"blobs": {"video_id": "videos of ann"}}, []),
    ("operations", PURGED, ["operations 1"]),
    ("operations", PURGED | {"operations": {"state": "open"}}, []),
    ("operations", PURGED | {"blobs": {"state": "retired"}, "operations": {"state": "done", "aside_blob_id": 1}}, []),
    ("leases", PURGED, ["video/upload of ann", "video/videos of ann"]),
    ("leases", PURGED | {"operations": {"state": "open"}}, ["video/upload of ann"]),
    ("leases", PURGED | {"blobs": {"state": "deleting"}}, ["video/upload of ann"]),
    ("crf_searches", {}, ["1"]),
    ("alerts", {"alerts": {"state": "resolved"}}, ["alerts 1"]),
    ("alerts", {}, []),
    ("snoozes", {}, ["snoozes 1"]),
    ("job_totals", {"job_totals": {"period": "2025-12"}}, ["2025-12 user:ann", "2025-12 user:bob"]),
    ("job_totals", {"job_totals": {"period": "2026-01-02"}}, []),
    ("job_totals", {"job_totals": {"period": ""}}, []),
]


@pytest.mark.parametrize(("table", "setup", "expected"), CASES)
def test_old_rows_that_nothing_needs_may_be_deleted(
    filled_engine: sa.Engine, table: str, setup: Setup, expected: list[str]
) -> None:
    (kind,) = (kind for kind in KINDS if kind.table.name == table)
    with transaction(filled_engine, "test") as session:
        set_values(session, setup)
        found = session.execute(sa.select(*kind.table.primary_key).where(kind.may_go(CUTOFF)))
        assert sorted(" ".join(map(str, row)) for row in found) == expected
