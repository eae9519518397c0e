"""A trial, of a bucket that the store has claimed, too: whoever asks, nothing is changed, and no plan is used up."""

import pytest
import sqlalchemy as sa
from prefect.flows import Flow
from typer.testing import CliRunner, Result

from deployments import orchestration
from deployments.deploy import storage_flows
from deployments.up import find_prefect_yaml
from flows.back_up_store import back_up_store
from flows.dispatch_jobs import dispatch_jobs
from flows.expire_videos import expire_videos
from flows.purge_retired import purge_retired
from flows.tier_storage import tier_storage
from reelkeeper.adapters.contract import CHECKS
from reelkeeper.cli import app
from reelkeeper.errors import OnTrial
from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core.workspace import note_trial
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.lifecycle.plans import approve
from reelkeeper.rules.alerts.cadence import NOT_IN_A_TRIAL
from reelkeeper.rules.core.wording import contract_gate
from reelkeeper.rules.lifecycle.guard import OVERRIDE
from reelkeeper.settings import settings
from reelkeeper.store.core import deployment
from reelkeeper.store.core.deployment import Standing
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.lifecycle.plans import refuse_plan
from reelkeeper.store.tables import blobs, jobs, plans
from tests.faults.world import LONG_AGO
from tests.flows.scenes import Scene

REFUSED = 9
CHANGES = [
    ["run", "tier_storage", "--apply"],
    ["run", "expire_videos", "--apply"],
    ["run", "purge_retired", "--apply"],
    ["run", "expire_videos", "--apply", "--plan", "{plan}"],
    ["users", "erase", "ann"],
    ["takedown", "v0", "--reason", "asked"],
    ["restore", "--video", "gone"],
    ["videos", "add", "{clip}", "--user", "ann", "--video", "new"],
]
ELSEWHERE = Standing(live="http://before/bucket/videos/")


def run(*words: str, exit_code: int = 0) -> Result:
    settings.cache_clear()
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture(params=["claimed", "elsewhere"])
def trial(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """Two videos past their retention, and one retired, in a trial of `up`, or at an address that it never saw."""
    for number, age_days in enumerate((366, 400)):
        scene.video(f"v{number}", age_days=age_days)
    scene.video("gone", age_days=500, state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    if request.param == "claimed":
        note_trial(scene.engine, scene.world.workspace.bucket, begins=True)
    else:
        with transaction(scene.engine, "test") as session:
            deployment.set_standing(session, ELSEWHERE)
    return scene


def state(scene: Scene, plan_id: str) -> str:
    with reading(scene.engine) as session:
        chosen = sa.select(plans.c.state).where(plans.c.id == plan_id)
        return str(session.execute(chosen).scalar_one())


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
def test_what_would_change_a_stored_video_is_refused_before_anything_is_done(trial: Scene, words: list[str]) -> None:
    run("plan", "expire_videos")
    plan_id, before = trial.last_plan().id, trial.everything()
    trial.double.requests.clear()
    run(*(word.format(plan=plan_id, clip=trial.world.clip) for word in words), exit_code=REFUSED)
    assert trial.everything() == before
    assert not [request for request in trial.double.requests if request.writes]
    assert {state(trial, plan_id), trial.last_plan().state} == {"ready"}


@pytest.mark.parametrize("flow", sorted(NOT_IN_A_TRIAL))
def test_a_run_that_a_trial_refuses_is_refused_before_prefect_starts(
    trial: Scene, flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was, too, but after twelve seconds of CPU, or, of jobs, said to apply it by the same words again."""
    monkeypatch.setattr(orchestration, "prepare", lambda _: pytest.fail("Prefect is prepared"))
    trial.double.requests.clear()
    run("run", flow, "--apply", exit_code=REFUSED)
    assert not trial.double.requests


def test_the_flows_that_a_trial_refuses_are_those_that_it_deploys_as_dry_runs_and_that_of_jobs() -> None:
    deployed = {name.replace("-", "_") for name in storage_flows(find_prefect_yaml())}
    assert {*deployed, "dispatch_jobs"} == NOT_IN_A_TRIAL


def test_a_dry_run_counts_as_a_success_only_of_a_flow_that_makes_no_others_in_a_trial(scene: Scene) -> None:
    note_trial(scene.engine, scene.world.workspace.bucket, begins=True)
    expire_videos()
    back_up_store()
    with reading(scene.engine) as session:
        assert set(deployment.beats(session)) == {"expire_videos"}


@pytest.mark.parametrize("flow", [expire_videos, purge_retired, tier_storage])
def test_a_flow_that_another_program_starts_uses_up_no_plan(trial: Scene, flow: Flow[..., object]) -> None:
    before = trial.everything()
    with pytest.raises(OnTrial):
        flow(dry_run=False)
    assert (trial.everything(), trial.last_plan().state) == (before, "ready")


def test_a_sync_leaves_to_later_what_a_killed_purge_has_claimed(trial: Scene) -> None:
    blob_id = trial.video("claimed", age_days=500, state=VideoState.RETIRED, blob_state=BlobState.DELETING)
    with transaction(trial.engine, "test") as session:
        claimed = sa.update(blobs).where(blobs.c.id == blob_id)
        session.execute(claimed.values(run_id="killed", claimed_at=LONG_AGO))
    run("run", "sync_catalog", "--apply")
    assert trial.states()["claimed"] == VideoState.RETIRED


def test_jobs_that_wait_are_not_made_where_no_result_could_be_stored(trial: Scene) -> None:
    with transaction(trial.engine, "test") as session:
        ledger.grant(session, "ann", 10**6, "first", run_id="test")
    wanted = {"model": "a", "prompt": "a cat", "width": 64, "height": 64, "duration_seconds": 0.5, "fps": 8}
    admit(trial.engine, GenerationRequest.model_validate(wanted), user_id="ann", client_key="k")
    assert dispatch_jobs(until_idle=True, dry_run=False).dry_run
    with reading(trial.engine) as session:
        assert session.execute(sa.select(jobs.c.state)).scalar_one() == JobState.QUEUED


def test_no_override_is_offered_and_no_approval_given_where_neither_leads_anywhere(scene: Scene) -> None:
    scene.video("v0", age_days=366)
    note_trial(scene.engine, scene.world.workspace.bucket, begins=True)
    said = run("plan", "expire_videos", "--param", "limits.max_objects=0").output
    assert "max_objects" in said
    assert OVERRIDE.strip() not in said
    with transaction(scene.engine, "test") as session:
        assert refuse_plan(session, scene.last_plan().id, "before the trial", {"max_objects": 1})
    for answer in ([], ["--yes"]):
        asked = run("approve", scene.last_plan().id, "--reason", "why", *answer, exit_code=REFUSED).output
        assert "[y/N]" not in asked
    with pytest.raises(OnTrial):
        approve(scene.engine, scene.last_plan().id, author="front", reason="why")
    assert scene.last_plan().approved_at is None


def test_a_plan_that_is_all_at_the_services_keys_waits_for_the_contract(scene: Scene) -> None:
    """A trial plans as if the bucket had passed it; once live, a run would skip all of the plan, and use it up."""
    bucket = scene.world.workspace.bucket
    theirs = f"{bucket.prefix}ann/v0.mp4"
    scene.video("v0", age_days=366, key=theirs)
    note_trial(scene.engine, bucket, begins=True)
    run("plan", "expire_videos")
    note_trial(scene.engine, bucket, begins=False)
    plan = scene.last_plan()
    run("run", "expire_videos", "--apply", "--plan", plan.id, exit_code=REFUSED)
    assert (state(scene, plan.id), scene.states()) == ("ready", {"v0": "live"})
    scene.video("v1", age_days=366)
    run("run", "expire_videos", "--apply")
    assert scene.states() == {"v0": "live", "v1": "retired"}


def test_a_plan_of_before_says_that_the_bucket_has_failed_the_contract_since(scene: Scene) -> None:
    bucket, gate = scene.world.workspace.bucket, contract_gate({"listing"})
    scene.video("v0", age_days=366, key=f"{bucket.prefix}ann/v0.mp4")
    note_trial(scene.engine, bucket, begins=True)
    run("plan", "expire_videos")
    show = ("plan", "--show", scene.last_plan().id)
    assert gate not in " ".join(run(*show).output.split())
    with transaction(scene.engine, "test") as session:
        deployment.record_contract(session, bucket.endpoint_url, bucket.name, set(CHECKS), {"listing"}, run_id="r")
    assert gate[1:] in " ".join(run(*show).output.split())
