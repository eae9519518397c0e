"""`purge_retired`: the only flow that deletes, and only blobs whose grace is over."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from flows.purge_retired import purge_retired
from reelkeeper.errors import Frozen, GuardRefused, LeaseLost, PartialFailure, PlanRefused
from reelkeeper.model import BlobState, VideoState
from reelkeeper.operations.core import freeze
from reelkeeper.operations.core.lease import alone
from reelkeeper.operations.videos.hold import hold
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.lifecycle.plan_results import NOT_DONE, by_outcome, shown
from reelkeeper.store.tables import blobs, plans
from reelkeeper.store.videos.holds import HoldTerms
from tests.flows.scenes import Scene
from tests.reading import DRAWN, as_read


@pytest.fixture
def due(scene: Scene) -> Scene:
    """One live video with an older blob whose grace is over, two retired ones that are due, one still in grace."""
    scene.world.video("live", blob_state=BlobState.RETIRED, current=False, due=True)
    scene.world.video("live", generation=2)
    for name in ("gone0", "gone1"):
        scene.world.video(name, state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    scene.world.video("waits", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    return scene


def test_a_dry_run_shows_what_would_go_and_deletes_nothing(due: Scene) -> None:
    before = due.everything()
    report = purge_retired()
    assert due.everything() == before
    assert {(rule.rule, rule.objects) for rule in report.planned} == {("grace_over", 2), ("replaced", 1)}
    assert (report.plan.kept, report.plan.population.objects) == ({"in_grace": 1}, 1)
    assert due.double.deleted() == []


def test_a_run_deletes_what_is_due_and_nothing_else(due: Scene) -> None:
    report = purge_retired(dry_run=False)
    assert [(outcome.outcome, outcome.objects) for outcome in report.done] == [("purged", 3)]
    assert due.states() == {"live": "live", "gone0": "gone", "gone1": "gone", "waits": "retired"}
    assert len(due.double.deleted()) == 3
    assert report.saved_bytes == 3 * due.world.clip.stat().st_size
    due.world.check()


@pytest.mark.long
@pytest.mark.usefixtures("due")
def test_an_as_of_in_the_future_makes_nothing_due() -> None:
    report = purge_retired(as_of=datetime.now(UTC) + timedelta(days=400))
    assert report.plan.kept == {"in_grace": 1}


@pytest.mark.long
def test_so_many_videos_go_in_one_run_the_longest_waiting_first(due: Scene) -> None:
    with transaction(due.engine, "test") as session:
        longer = datetime(2025, 1, 1, tzinfo=UTC)
        session.execute(sa.update(blobs).where(blobs.c.video_id == "gone1").values(purge_after=longer))
    report = purge_retired(BlastRadius(max_objects=1), dry_run=False)
    assert due.states()["gone1"] == "gone"
    assert report.plan.kept == {"in_grace": 1, "left_to_next_run": 1}
    assert len(due.double.deleted()) == 2


@pytest.mark.long
def test_zero_means_nothing_and_a_plan_is_bound_to_its_limit(due: Scene) -> None:
    before = due.everything()
    with pytest.raises(GuardRefused, match="max_objects"):
        purge_retired(BlastRadius(max_objects=0), dry_run=False)
    plan_id = purge_retired().plan.id
    with pytest.raises(PlanRefused) as refused:
        purge_retired(BlastRadius(max_objects=1), dry_run=False, plan_id=plan_id)
    assert as_read(refused.value, **DRAWN) == snapshot("""\
plan <plan> was made under another policy: limits.max_objects=500 then, 1 now. Nothing was
  changed. As it was made: reelkeeper run purge_retired --apply --plan <plan> --param
  limits.max_objects=500
or make a new plan\
""")
    assert due.everything() == before
    assert due.double.deleted() == []


@pytest.mark.long
def test_videos_held_after_the_plan_are_skipped(due: Scene) -> None:
    plan_id = purge_retired().plan.id
    hold(due.engine, HoldTerms("video", "gone0", "legal", "ops"))
    report = purge_retired(dry_run=False, plan_id=plan_id)
    assert {outcome.outcome: outcome.objects for outcome in report.done} == {"purged": 2, "skipped": 1}
    assert due.states()["gone0"] == "retired"


@pytest.mark.long
def test_deletions_begun_by_a_killed_run_are_finished(due: Scene) -> None:
    with transaction(due.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.video_id == "gone0").values(state=BlobState.DELETING))
    report = purge_retired(dry_run=False)
    assert ("unfinished", 1) in {(rule.rule, rule.objects) for rule in report.planned}
    assert [(outcome.outcome, outcome.objects) for outcome in report.done] == [("purged", 3)]
    due.world.check()


@pytest.mark.long
def test_what_a_killed_run_has_deleted_is_an_outcome_of_its_own_plan(due: Scene) -> None:
    killed = purge_retired().plan.id
    with transaction(due.engine, "test") as session:  # as a run that was killed after a delete, before its record
        applied = sa.update(plans).where(plans.c.id == killed)
        session.execute(applied.values(state="applied", applied_at=Clock(), run_id="killed"))
        claim = sa.update(blobs).where(blobs.c.video_id.in_(["gone0", "gone1"])).returning(blobs.c.key)
        key = session.execute(claim.values(state=BlobState.DELETING, run_id="killed")).scalars().all()[0]
    due.world.workspace.bucket.delete([key])
    report = purge_retired(dry_run=False)
    assert [(outcome.outcome, outcome.objects) for outcome in report.done] == [("purged", 2), ("skipped", 1)]
    with reading(due.engine) as session:
        assert {done.outcome: done.objects for done in by_outcome(session, killed)} == {"purged": 1, NOT_DONE: 2}
        assert shown(session, killed) == ("stopped", "killed")


@pytest.mark.long
def test_a_key_that_cannot_be_deleted_ends_the_run_failed_with_the_rest_done(due: Scene) -> None:
    with reading(due.engine) as session:
        key = session.execute(sa.select(blobs.c.key).where(blobs.c.video_id == "gone0")).scalar_one()
    due.double.faults.refuse_deletes([key])
    with pytest.raises(PartialFailure) as refused:
        purge_retired(dry_run=False)
    assert as_read(refused.value, **DRAWN) == snapshot("""\
purge_retired, run <run>: 1 failed, 2 purged. Failed, for example: gone0: AccessDenied: injected
  by a test\
""")
    assert due.states()["gone1"] == "gone"
    due.double.faults.clear()
    purge_retired(dry_run=False)
    assert due.states()["gone0"] == "gone"


@pytest.mark.long
def test_another_run_or_a_freeze_stops_it_before_the_first_change(due: Scene) -> None:
    before = due.everything()
    with alone(due.engine, "flow/purge_retired") as other, pytest.raises(LeaseLost, match=other.lease.holder):
        purge_retired(dry_run=False)
    assert due.everything() == before
    freeze.freeze(due.engine, by="ops", reason="an audit")
    with pytest.raises(Frozen, match="an audit"):
        purge_retired(dry_run=False)
    assert due.double.deleted() == []
