"""What the command and the pages tell somebody to run does what they say."""

import re
import shlex

from tests.docs.conftest import ROOT
from tests.flows.scenes import Scene
from tests.flows.test_trial import REFUSED, run

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
