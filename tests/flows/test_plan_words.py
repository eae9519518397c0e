"""What the command and the pages tell somebody to run does what they say."""

import re
import shlex

import pytest

from flows.expire_videos import expire_videos
from reelkeeper.rules.lifecycle.guard import BlastRadius
from tests.docs.conftest import ROOT
from tests.doubles.prefect_api import PrefectDouble
from tests.flows.scenes import Scene
from tests.flows.test_trial import REFUSED, run
from tests.policies import put_in_force

EXAMPLE = next(
    block
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "migration.md").read_text(), re.DOTALL)
    if "policy.segments" in block
)


def test_the_example_for_one_user_or_folder_plans_no_other_video(scene: Scene) -> None:
    for number in range(2):
        scene.video(f"v{number}", age_days=100)
    run("plan", "tier_storage")
    assert set(scene.outcomes(scene.last_plan().id)) == {"v0", "v1"}
    prefix = scene.world.workspace.bucket.prefix
    words = shlex.split(EXAMPLE.replace("\\\n", "").replace("videos/ann/*", f"{prefix}ann/v1/*"))
    run(*words[1:])
    assert set(scene.outcomes(scene.last_plan().id)) == {"v1"}


def test_a_plan_made_with_parameters_is_carried_out_by_the_command_of_its_refusal(scene: Scene) -> None:
    for number in range(2):
        scene.video(f"v{number}", age_days=100 + 300 * number)
    run("plan", "expire_videos", "--param", "tiers.pro.retention_days=90")
    plan_id = scene.last_plan().id
    refused = run("run", "expire_videos", "--apply", "--plan", plan_id, exit_code=REFUSED).output
    (again,) = re.findall(r"reelkeeper (run .*?)or make", " ".join(refused.split()))
    run(*shlex.split(again))
    assert (scene.last_plan().id, set(scene.states().values())) == (plan_id, {"retired"})


def test_an_approved_plan_is_carried_out_with_what_it_was_made_with_and_no_wider_limits(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_force(scene.engine, limits=BlastRadius(always_allowed=0))
    for number in range(4):
        scene.video(f"v{number}", age_days=100 + 300 * (number > 1))
    words = ("tiers.pro.retention_days=390", "limits.max_user_percent=90")
    run("run", "expire_videos", "--apply", *(f"--param={word}" for word in words), exit_code=REFUSED)
    plan = scene.last_plan()
    with PrefectDouble().serving() as server:
        server.deployments["expire-videos/daily"] = "d"
        monkeypatch.setenv("REELKEEPER_PREFECT_API_URL", server.url)
        run("approve", plan.id, "--reason", "why", "--yes")
        (started,) = server.runs.values()
    given = started["parameters"]
    assert given == {"plan_id": plan.id, "dry_run": False, "tiers": {"pro": {"retention_days": 390}}}
    limits = ("max_percent", "max_percent_in_24h", "max_user_percent")
    assert scene.last_plan().widening == dict.fromkeys(limits, 50)
    expire_videos(**given)
    assert scene.states() == {"v0": "live", "v1": "live", "v2": "retired", "v3": "retired"}


def test_the_command_of_an_approved_plan_has_what_it_was_made_with(scene: Scene) -> None:
    put_in_force(scene.engine, limits=BlastRadius(max_percent=0))
    scene.video("v0", age_days=100)
    run("run", "tier_storage", "--apply", "--param=policy.compress_below_views=never", exit_code=REFUSED)
    said = run("approve", scene.last_plan().id, "--reason", "why", "--yes").output
    run(*shlex.split(said.partition("carry it out: reelkeeper ")[2]))
    assert scene.states() == {"v0": "retired"}
