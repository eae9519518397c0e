"""Events of videos are written with the change, and nothing else is sent."""

import ast
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.failpoints import observe
from reelkeeper.model import Grace
from reelkeeper.model.alerts import EventType
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.lifecycle.purge import purge
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.removals.delete import delete
from reelkeeper.operations.removals.takedown import TakedownOrder, take_down
from reelkeeper.operations.videos.upload import upload
from reelkeeper.rules.alerts.webhooks import of_audit
from reelkeeper.store.alerts import webhooks
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, outbox
from tests.faults.world import LONG_AGO, World
from tests.operations.changes import change

OPERATIONS = Path(__file__).parents[3] / "reelkeeper" / "operations"
TOLD = {"upload", "swap", "overwritten", "retire", "delete", "takedown", "restore", "purge"}


@pytest.fixture
def told(world: World) -> World:
    """A world with one endpoint."""
    with transaction(world.workspace.engine, "test") as session:
        webhooks.add(session, "https://example.com", [], "whsec_c2VjcmV0")
    return world


def events(world: World) -> list[tuple[str, dict[str, Any]]]:
    with reading(world.workspace.engine) as session:
        rows = session.execute(sa.select(outbox.c.payload).order_by(outbox.c.id)).scalars()
        return [(row["type"], row["data"]) for row in rows]


def test_a_videos_life_sends_events_from_upload_to_purge(told: World, lease: Lease, tmp_path: Path) -> None:
    upload(
        told.workspace,
        told.clip,
        Incoming("ann", "v1", LONG_AGO),
        scratch=tmp_path / "scratch",
        lease=lease,
        run_id="run",
        grace=Grace(),
    )
    engine = told.workspace.engine
    delete(engine, "v1", by="front", run_id="run")
    found = find_restorable(told.workspace, video_id="v1")
    restore(told.workspace, found, run_id="run", author="support", grace=Grace(), hold_days=0)
    with reading(engine) as session:
        blob_id = session.execute(sa.select(blobs.c.id)).scalar_one()
    retire(
        told.workspace, told.plan("tier_storage", "retire", [blob_id]), ["v1"], lease=lease, run_id="run", grace=Grace()
    )
    change(told, blobs, purge_after=LONG_AGO, retired_at=LONG_AGO)
    purge(
        told.workspace,
        told.plan("purge_retired", "purge", [blob_id]),
        [blob_id],
        lease=lease,
        run_id="run",
        grace=Grace(),
    )
    types = ["published", "retired", "restored", "retired", "purged"]
    said = events(told)
    assert [name for name, _ in said] == [f"video.{name}" for name in types]
    assert [data["state"] for _, data in said] == ["live", "retired", "live", "retired", "gone"]
    assert {data["video_id"] for _, data in said} == {"v1"}
    assert said[0][1]["size_bytes"] == told.clip.stat().st_size
    assert said[1][1]["purge_after"]


def test_a_swap_taken_back_is_a_change_and_its_bytes_purge_is_nobodys_concern(told: World, lease: Lease) -> None:
    told.swapped("v1", run_id="run")
    found = find_restorable(told.workspace, video_id="v1")
    restore(told.workspace, found, run_id="run", author="support", grace=Grace(), hold_days=0)
    with reading(told.workspace.engine) as session:
        old = session.execute(sa.select(blobs.c.id).where(blobs.c.state == "retired")).scalar_one()
    change(told, blobs, purge_after=LONG_AGO, retired_at=LONG_AGO)
    done = purge(
        told.workspace, told.plan("purge_retired", "purge", [old]), [old], lease=lease, run_id="run", grace=Grace()
    )
    assert [outcome.action for outcome in done] == ["purged"]
    assert [name for name, _ in events(told)] == ["video.changed"]


def test_a_takedown_event_has_no_reason(told: World, tmp_path: Path) -> None:
    told.video("v1")
    take_down(
        told.workspace, "v1", TakedownOrder("front", "a case that nobody should read of", "run"), scratch=tmp_path
    )
    assert [name for name, _ in events(told)] == ["video.retired", "video.purged"]
    assert "nobody should read" not in str(events(told))


def test_an_uncommitted_change_sends_no_event(told: World) -> None:
    told.video("v1")

    def fail(point: str) -> None:
        if point == "delete.before_commit":
            raise RuntimeError("the machine stops")

    observe(fail)
    try:
        with pytest.raises(RuntimeError):
            delete(told.workspace.engine, "v1", by="front", run_id="run")
    finally:
        observe(None)
    assert events(told) == []


@pytest.mark.parametrize(
    ("event", "detail", "state", "is_present", "expected"),
    [
        ("upload", {"before_bytes": 0}, "live", True, EventType.VIDEO_PUBLISHED),
        ("upload", {"before_bytes": 9}, "live", True, EventType.VIDEO_CHANGED),
        ("swap", {"before_bytes": 9}, "live", True, EventType.VIDEO_CHANGED),
        ("swap_abandoned", {"before_bytes": 9}, "live", False, None),
        ("overwritten", {"was": "live"}, "live", True, EventType.VIDEO_CHANGED),
        ("overwritten", {"was": "gone"}, "live", True, EventType.VIDEO_PUBLISHED),
        ("overwritten", {"was": "live"}, "retired", True, None),  # it was taken down, which is told by itself
        ("restore", {"was": "lost"}, "live", True, EventType.VIDEO_RESTORED),
        ("restore", {"was": "live"}, "live", True, EventType.VIDEO_CHANGED),
        ("purge", {}, "gone", True, EventType.VIDEO_PURGED),
        ("purge", {}, "live", False, None),
        ("purge", {}, "gone", False, None),
        ("block", {}, "retired", True, None),
    ],
)
def test_each_change_maps_to_its_event(
    event: str, detail: dict[str, Any], state: str, is_present: bool, expected: EventType | None
) -> None:
    assert of_audit(event, detail, state, is_present=is_present) == expected


def test_every_operation_that_audits_such_a_change_sends_its_event() -> None:
    """`record` tells and audits; `append` only audits."""
    for path in OPERATIONS.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "append":
                named = {node.value for node in ast.walk(call) if isinstance(node, ast.Constant)}
                assert not named & TOLD, f"{path.name}: {named & TOLD} is audited and not told"
