"""`transcode_videos`: helps with another run's plan, never does a video twice, and finishes for a dead run."""

from functools import partial
from threading import Thread
from uuid import UUID

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.deployments.runner import RunnerDeployment

from flows.tier_storage import tier_storage
from flows.transcode_videos import transcode_videos
from reelkeeper.errors import Frozen, PartialFailure
from reelkeeper.operations.alerts.alerts import report_run
from reelkeeper.operations.core import freeze
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.rules.alerts.alerting import Trouble
from reelkeeper.rules.lifecycle.report import HelpReport, Report
from reelkeeper.rules.policies import TERMS, Policies, terms_in
from reelkeeper.store.core import leases
from reelkeeper.store.core.deployment import beats
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.lifecycle import plan_progress
from reelkeeper.store.lifecycle.plans import begin_applying
from reelkeeper.store.tables import audit_events
from tasks import plans
from tests.flows.scenes import Scene
from tests.reading import DRAWN, as_read
from tests.shrinking import AT_ANY_PRICE

FAILED = partial(report_run, trouble=Trouble.FAILED, flow="transcode-videos", run_name="a helper", message="", url="")
COLD = [f"cold{number}" for number in range(3)]


@pytest.fixture
def cold(scene: Scene) -> Scene:
    """Three cold videos, and one that nobody has watched for a month."""
    for video_id in COLD:
        scene.video(video_id, age_days=10)
    scene.video("forgotten", age_days=40)
    return scene


def begun(scene: Scene) -> str:
    """Let a run claim a plan, and be killed before it has done anything; return the plan's id."""
    plan_id = tier_storage().plan.id
    terms = terms_in(Policies(recipe=AT_ANY_PRICE), TERMS["tier_storage"])
    with transaction(scene.engine, "test") as session:
        begin_applying(session, plan_id, "tier_storage", terms, "dead")
    leases.acquire(scene.engine, [plan_progress.plan_lease(plan_id)], "a run that is dead")
    return plan_id


def test_a_helper_that_fails_is_told_again_once_another_has_succeeded(scene: Scene) -> None:
    assert FAILED(scene.engine, run_id="1") == 1
    assert FAILED(scene.engine, run_id="2") == 0
    transcode_videos(dry_run=False)
    assert FAILED(scene.engine, run_id="3") == 1
    with reading(scene.engine) as session:
        assert "transcode_videos" in beats(session), "else the API tells of a failed run after the one that succeeded"


def swapped_by(scene: Scene) -> dict[str, str]:
    """Return the run in whose name each video was swapped."""
    with reading(scene.engine) as session:
        chosen = sa.select(audit_events.c.video_id, audit_events.c.run_id).where(audit_events.c.event == "swap")
        return {row.video_id: row.run_id for row in session.execute(chosen)}


def test_without_a_plan_under_way_there_is_nothing_to_do(cold: Scene) -> None:
    tier_storage()
    before = cold.everything()
    report = transcode_videos(dry_run=False)
    assert (report.plan_id, report.videos, report.left, report.done) == (None, 0, 0, ())
    assert cold.everything() == before


@pytest.mark.long
def test_a_dry_run_says_what_is_left(cold: Scene) -> None:
    plan_id = begun(cold)
    before = cold.everything()
    report = transcode_videos()
    assert (report.plan_id, report.videos, report.left, report.dry_run) == (plan_id, 3, 3, True)
    assert cold.everything() == before


@pytest.mark.long
def test_a_helper_compresses_under_the_planning_runs_id_and_leaves_the_end_to_that_run(cold: Scene) -> None:
    plan_id = begun(cold)
    report = transcode_videos(dry_run=False)
    assert [(outcome.outcome, outcome.objects) for outcome in report.done] == [("compressed", 3)]
    assert cold.outcomes(plan_id) == dict.fromkeys(COLD, "compressed") | {"forgotten": None}
    assert swapped_by(cold) == dict.fromkeys(COLD, "dead")
    assert plans.under_way(cold.world.workspace.engine) == plan_id
    cold.world.check()


@pytest.mark.long
def test_a_helper_ends_the_plan_of_a_dead_run(cold: Scene) -> None:
    begun(cold)
    cold.world.expire_leases()
    assert transcode_videos(dry_run=False).left == 0
    assert plans.under_way(cold.world.workspace.engine) is None
    assert transcode_videos(dry_run=False).plan_id is None


@pytest.mark.long
def test_a_run_and_its_helper_share_the_videos(cold: Scene) -> None:
    cold.video("cold3", age_days=10)
    helped: list[HelpReport] = []
    helper = Thread(target=lambda: helped.append(transcode_videos(dry_run=False)))
    cold.when_a_video_is_fetched(helper.start)
    report = tier_storage(dry_run=False)
    helper.join(240)
    assert {outcome.outcome: outcome.objects for outcome in report.done} == {"compressed": 4, "retired": 1}
    assert helped[0].plan_id in {report.plan.id, None}  # None: on a busy machine it began after the last video
    assert set(swapped_by(cold).values()) == {report.run_id}
    cold.world.check()


@pytest.mark.long
def test_the_run_waits_for_its_helpers_videos_and_takes_over_those_of_dead_ones(cold: Scene) -> None:
    """Another worker holds one video's lease as the run begins, and gives no sign of life."""
    leases.acquire(cold.engine, ["video/cold1"], "a helper that is dead", seconds=5)
    report: Report = tier_storage(dry_run=False)
    assert {outcome.outcome: outcome.objects for outcome in report.done} == {"compressed": 3, "retired": 1}


@pytest.mark.long
def test_a_helper_stops_before_the_next_video_once_its_run_has_ended(cold: Scene) -> None:
    plan_id = begun(cold)
    with reading(cold.engine) as session:
        (holder,) = session.execute(sa.text("SELECT holder FROM leases WHERE name LIKE 'plan/%'")).one()
    lease = leases.Lease(plan_progress.plan_lease(plan_id), holder, 1)
    cold.when_a_video_is_fetched(lambda: leases.release(cold.engine, [lease]))
    report = transcode_videos(dry_run=False)
    assert 1 <= sum(outcome.objects for outcome in report.done) <= 2  # those that its two threads were at work on
    assert report.left >= 1


@pytest.mark.long
def test_a_new_run_ends_what_a_dead_one_left_under_way(cold: Scene) -> None:
    begun(cold)
    cold.world.expire_leases()
    assert tier_storage(dry_run=False).plan.compress.objects == 3
    assert plans.under_way(cold.world.workspace.engine) is None


@pytest.mark.long
def test_a_freeze_stops_it_before_the_next_video(cold: Scene) -> None:
    plan_id = begun(cold)
    cold.when_a_video_is_fetched(lambda: freeze.freeze(cold.engine, by="ops", reason="stop"))
    with pytest.raises(Frozen, match="stop"):
        transcode_videos(dry_run=False)
    assert set(cold.outcomes(plan_id).values()) == {None}
    with pytest.raises(Frozen, match="stop"):
        transcode_videos(dry_run=False)


@pytest.mark.long
def test_a_failed_video_fails_the_helpers_run_with_the_rest_done(cold: Scene) -> None:
    cold.video("missing", age_days=20, stored=False)
    plan_id = begun(cold)
    with pytest.raises(PartialFailure) as refused:
        transcode_videos(dry_run=False)
    assert as_read(refused.value, **DRAWN) == snapshot("""\
transcode_videos, run <run>: 3 compressed, 1 failed. Failed, for example: missing:
  ObjectMissing: GET <key>: no such object\
""")
    assert cold.outcomes(plan_id)["missing"] == "failed"


@pytest.mark.long
def test_helpers_are_asked_for_through_prefect_and_a_run_without_any_does_it_alone(cold: Scene) -> None:
    assert tier_storage(dry_run=False, helpers=2).plan.compress.objects == 3  # nobody has deployed anything
    for number in range(3):
        cold.video(f"more{number}", age_days=10)
    deployment = transcode_videos.to_deployment("on-demand", parameters={"dry_run": False})
    assert isinstance(deployment, RunnerDeployment)  # a coroutine only where an event loop runs
    deployment_id = deployment.apply()
    assert isinstance(deployment_id, UUID)
    with get_client(sync_client=True) as client:
        tier_storage(dry_run=False, helpers=5)
        wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
        asked = client.read_flow_runs(flow_run_filter=wanted)
        client.delete_deployment(deployment_id)
    assert [run.parameters for run in asked] == [{"dry_run": False}] * 2  # one video is the run's own


@pytest.mark.long
def test_a_video_that_another_has_settled_meanwhile_is_not_done_again(cold: Scene) -> None:
    plan_id = begun(cold)
    with LeaseManager(cold.engine) as manager:
        (lease,) = manager.take(["video/cold0"])
        helper = Thread(target=transcode_videos, kwargs={"dry_run": False})
        helper.start()
        with transaction(cold.engine, "test") as session:
            session.execute(sa.text("UPDATE verdicts SET outcome = 'skipped' WHERE video_id = 'cold0'"))
        manager.release([lease])
        helper.join(240)
    assert cold.outcomes(plan_id) == {
        "cold0": "skipped",
        "cold1": "compressed",
        "cold2": "compressed",
        "forgotten": None,
    }
