"""`reelkeeper run` and `plan`: flows from the command line, with plans, refusals and exit codes."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from typer.testing import CliRunner, Result

from reelkeeper.cli import app
from reelkeeper.model import BlobState, VideoState
from reelkeeper.operations.health.status import gather
from reelkeeper.operations.reports import report
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.report import effects
from reelkeeper.settings import settings
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import plans, verdicts
from tests.flows.scenes import Scene
from tests.policies import put_in_force
from tests.reading import DRAWN, as_read


def run(*words: str, exit_code: int = 0) -> Result:
    settings.cache_clear()
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == exit_code, result.output
    return result


def ask(*words: str) -> Any:  # noqa: ANN401  whatever JSON holds
    return json.loads(run(*words, "--json").stdout)


@pytest.fixture
def old(scene: Scene) -> Scene:
    """Two videos that a pro user's retention has passed, one that it has not."""
    for number, age_days in enumerate((366, 400, 364)):
        scene.video(f"v{number}", age_days=age_days)
    return scene


@pytest.mark.long
def test_without_apply_the_plan_is_shown_and_nothing_is_changed(old: Scene) -> None:
    before = old.everything()
    said = run("run", "expire_videos").stdout
    assert old.everything() == before
    assert as_read(said, **DRAWN) == snapshot("""\
Plan <plan> of expire_videos, as of <at> UTC: 3 live videos, <size>.
video user action bytes why
v0 ann retire <size> 366 days old: pro users' videos are kept for 365 days
v1 ann retire <size> 400 days old: pro users' videos are kept for 365 days
Kept: 1 left to tier storage.
In total: 2 to retire; files of <size> before, under $0.000001 a month less.
By Reelkeeper's defaults, as nobody has set others: videos are kept by tier, free for 30 days,
  premium for 90 days, pro for 365 days, and those that nobody watches, of all tiers, for 30 days.
  To set yours: reelkeeper policy show > policies.yaml; reelkeeper policy apply policies.yaml
  --reason TEXT
All that the catalogue knows, <size> (without unfinished uploads, other prefixes and other
  buckets), is within R2's free 10 GB: if the account stores no more than that, storing less does
  not lower the bill yet. Dollars here are at list price.
Nothing was changed. To apply it: reelkeeper run expire_videos --apply --plan <plan>\
""")


@pytest.mark.long
@pytest.mark.parametrize(
    ("flow", "params"),
    [
        ("tier_storage", ("--param", "helpers=2", "--param", "policy.compress_limit=1")),
        ("expire_videos", ("--param", "tiers.pro.retention_days=399")),
        ("purge_retired", ("--param", "limits.max_objects=7")),
    ],
)
def test_a_plan_is_the_one_that_the_flows_dry_run_makes(scene: Scene, flow: str, params: tuple[str, ...]) -> None:
    for number, age_days in enumerate((366, 400, 300, 20, 21, 3)):
        scene.video(f"v{number}", age_days=age_days)
    scene.world.video("gone", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    as_of = ("--as-of", datetime.now(UTC).isoformat())
    made: list[tuple[object, ...]] = []
    for command in ("run", "plan"):
        report = ask(command, flow, *params, *as_of)
        plan_id = report["plan"].pop("id")
        with reading(scene.engine) as session:
            columns = [column for column in verdicts.c if column.name not in {"id", "plan_id"}]
            rows = session.execute(sa.select(*columns).where(verdicts.c.plan_id == plan_id).order_by("blob_id")).all()
            under = session.execute(sa.select(plans.c.policy_hash).where(plans.c.id == plan_id)).scalar_one()
        del report["run_id"]
        made.append((report, [tuple(row) for row in rows], under))
    assert made[0] == made[1]
    assert made[1][1]  # there was something to compare
    assert ask("run", flow, *params, "--apply", "--plan", plan_id)["plan"]["id"] == plan_id


def test_a_plan_of_nothing_and_a_refused_one_do_not_say_how_to_do_it(old: Scene) -> None:
    assert as_read(run("plan", "purge_retired").stdout, **DRAWN) == snapshot("""\
Plan <plan> of purge_retired, as of <at> UTC: 3 live videos, <size>.
The plan has nothing to do.
Nothing was changed, and there is nothing to do.\
""")
    refused = run("plan", "expire_videos", "--param", "limits.max_objects=0").stdout
    assert as_read(refused, **DRAWN) == snapshot("""\
Plan <plan> of expire_videos, as of <at> UTC: 3 live videos, <size>.
video user action bytes why
v0 ann retire <size> 366 days old: pro users' videos are kept for 365 days
v1 ann retire <size> 400 days old: pro users' videos are kept for 365 days
Kept: 1 left to tier storage.
In total: 2 to retire; files of <size> before, under $0.000001 a month less.
By Reelkeeper's defaults, as nobody has set others: videos are kept by tier, free for 30 days,
  premium for 90 days, pro for 365 days, and those that nobody watches, of all tiers, for 30 days.
  To set yours: reelkeeper policy show > policies.yaml; reelkeeper policy apply policies.yaml
  --reason TEXT
All that the catalogue knows, <size> (without unfinished uploads, other prefixes and other
  buckets), is within R2's free 10 GB: if the account stores no more than that, storing less does
  not lower the bill yet. Dollars here are at list price.
With --apply, the guard would refuse: expire_videos selected 2 of 3 live videos, <size>
max_objects: 2 videos, limit 0
for example: v0, v1
plan: <plan>
override: reelkeeper run expire_videos --apply --plan <plan> --param limits.max_objects=2
Nothing was changed.\
""")
    assert set(old.states().values()) == {"live"}


def test_the_backlog_says_whether_the_limits_of_a_run_refuse_it(old: Scene) -> None:
    for limit, refused in ((0, True), (2, False)):
        run("plan", "expire_videos", "--param", f"limits.max_objects={limit}")
        (left,) = gather(old.engine).backlog
        assert (left.objects, left.is_refused) == (2, refused)


def test_the_report_of_a_trial_has_the_latest_plan_without_exceptions_by_the_limits_in_force(old: Scene) -> None:
    with transaction(old.engine, "test") as session:
        deployment.set_standing(session, deployment.Standing("of this bucket"))
    month = datetime.now(UTC).date().replace(day=1)

    def trial() -> report.Trial:
        found = report.gather(old.engine, month, datetime.now(UTC)).trial
        assert found is not None
        return found

    run("plan", "expire_videos", "--param", "tiers.pro.retention_days=300")
    run("plan", "expire_videos", "--as-of", "2099-01-01")
    assert (trial().planned, trial().saving_microusd) == ({}, 0)
    for params in ([], ["--param", "limits.max_objects=0"], ["--param", "tiers.pro.retention_days=300"]):
        run("plan", "expire_videos", *params)
        assert [rule.objects for rule in trial().planned["expire_videos"]] == [2]
        assert not trial().refused
    put_in_force(old.engine, limits=BlastRadius(max_objects=1))
    run("plan", "expire_videos", "--param", "limits.max_objects=2")
    run("run", "expire_videos", "--apply", exit_code=9)  # a trial refuses it before its limits do
    assert (set(trial().refused), trial().saving_microusd) == ({"expire_videos"}, 0)
    assert [effect.size_bytes for effect in effects(trial().planned["expire_videos"], is_refused=True)] == [0]
    put_in_force(old.engine, limits=BlastRadius(always_allowed=1))
    run("plan", "expire_videos")
    run("plan", "expire_videos", "--param", "limits.max_user_percent=100")  # both at once, which limits in force refuse
    assert [rule.objects for rule in trial().planned["expire_videos"]] == [1]


@pytest.mark.long
def test_a_plan_is_applied_once_and_can_be_shown_and_undone(old: Scene) -> None:
    plan_id = ask("plan", "expire_videos")["plan"]["id"]
    listed = ask("plan", "--list")[0]
    assert (listed["id"], listed["state"], listed["items"]) == (plan_id, "ready", 2)
    ask("plan", "expire_videos", "--param", "tiers.pro.retention_days=never")  # what would be is not left to do
    assert [(left["plan_id"], left["objects"]) for left in ask("status")["backlog"]] == [(plan_id, 2)]
    run_id = ask("run", "expire_videos", "--apply", "--plan", plan_id)["run_id"]
    assert old.states() == {"v0": "retired", "v1": "retired", "v2": "live"}
    assert {item["outcome"] for item in ask("plan", "--show", plan_id)["items"]} == {"retired"}
    assert as_read(run("plan", "--show", plan_id).stdout, **DRAWN) == snapshot("""\
Plan <plan> of expire_videos, as of <at> UTC: 3 live videos, <size>.
video user action bytes became why
v0 ann retire <size> retired 366 days old: pro users' videos are kept for 365 days
v1 ann retire <size> retired 400 days old: pro users' videos are kept for 365 days
Kept: 1 left to tier storage.
In total: 2 retired; <size> less, $0.000001 a month at R2's price for stored bytes, once the
  grace of 7 days, 14 at your service's own keys, is over. Until then all of it stays stored.\
""")
    said = run("run", "expire_videos", "--apply", "--plan", plan_id, exit_code=9).stderr
    assert "already" in said

    assert as_read(run("restore", "--run", run_id[:8], "--dry-run").stdout, **DRAWN) == snapshot("""\
video user state bytes key
v0 ann retired <size> <key>
v1 ann retired <size> <key>
2 would be restored; nothing was changed.\
""")
    assert as_read(run("restore", "--run", "zzz", exit_code=8).stderr, **DRAWN) == snapshot(
        "error: no run 'zzz' has changed anything. To list changes by run: reelkeeper audit"
    )
    assert as_read(run("restore", "--run", run_id).stdout, **DRAWN) == snapshot("""\
video became bytes why
v0 restored <size> by <person>
v1 restored <size> by <person>
2 of 2 are restored, held for 30 days.\
""")
    assert set(old.states().values()) == {"live"}
    assert {hold["subject"] for hold in ask("hold", "--list")} == {"v0", "v1"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--param", "limits.max_objects=0"), "max_objects"),
        (("--param", "tiers.pro.retention_days=1"), " pro.retention_days=1"),
        (
            [word for tier in ("free", "premium", "pro") for word in ("--param", f"tiers.{tier}.retention_days=never")],
            "retention_days",
        ),
    ],
    ids=["nothing allowed", "contradiction", "empty"],
)
def test_a_refused_plan_ends_with_9_and_changes_nothing(old: Scene, words: tuple[str, ...], said: str) -> None:
    before = old.everything()
    result = run("run", "expire_videos", "--apply", *words, exit_code=9)
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert (old.everything(), old.double.deleted()) == (before, [])


def test_a_refusal_names_an_override_that_keeps_what_the_run_was_given_and_works_at_once(old: Scene) -> None:
    given = ("tiers.pro.retention_days=300", "limits.max_percent=100.0", "limits.max_user_percent=100.0")
    words = ("expire_videos", *(word for param in (*given, "limits.always_allowed=0") for word in ("--param", param)))
    previews = [" ".join(run(command, *words).stdout.split()) for command in ("plan", "run")]
    refused = " ".join(run("run", *words, "--apply", exit_code=9).stderr.split())
    overrides = [text.partition("override: reelkeeper ")[2] for text in (*previews, refused)]
    for override in overrides:
        assert all(f" --param {param} " in override for param in (*given, "limits.always_allowed=0"))
        assert " --param limits.max_percent_in_24h=100.0" in override
    run(*overrides[-1].partition(" or approve")[0].split())
    assert set(old.states().values()) == {"retired"}


@pytest.mark.parametrize("value", ["limits.max_objects=-1", "limits.max_percent=nan", "tiers.free.retention_days=0"])
def test_a_value_that_cannot_be_ends_with_2_and_changes_nothing(old: Scene, value: str) -> None:
    before = old.everything()
    said = run("run", "expire_videos", "--apply", "--param", value, exit_code=2).stderr
    assert value.partition("=")[0] in said
    assert (old.everything(), old.double.deleted()) == (before, [])


def test_a_bucket_of_another_deployment_ends_with_9(old: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = old.world.workspace.bucket.prefix
    bucket = old.world.outside
    bucket.put_bytes_once(f"{prefix}other/.reelkeeper-identity.json", b'{"deployment": "somebody"}', "application/json")
    monkeypatch.setenv("REELKEEPER_PREFIX", f"{prefix}other/")
    assert as_read(run("run", "expire_videos", "--apply", exit_code=9).stderr, **DRAWN) == snapshot("""\
error: bucket 'reelkeeper' under '<prefix>other/' belongs to deployment somebody, but this store
  to <run>. Nothing was changed. Check REELKEEPER_BUCKET, _PREFIX, _DATABASE_URL and _STATE_DIR\
""")


@pytest.mark.long
def test_frozen_ends_with_3_and_an_unknown_plan_with_8(old: Scene) -> None:
    run("freeze", "--reason", "an audit")
    assert "an audit" in run("run", "expire_videos", "--apply", exit_code=3).stderr
    run("thaw")
    run("run", "expire_videos", "--apply", "--plan", "nonesuch", exit_code=8)
    run("plan", "--show", "nonesuch", exit_code=8)
    assert set(old.states().values()) == {"live"}


@pytest.mark.long
def test_as_of_judges_another_day(old: Scene) -> None:
    report = ask("run", "expire_videos", "--as-of", "2020-01-01")
    assert report["plan"]["retire"]["objects"] == 0
    assert report["plan"]["kept"] == {"future_created": 3}
    assert old.states()


@pytest.mark.long
def test_sync_reports_its_findings_and_accepts_no_plan(scene: Scene) -> None:
    scene.video("v1", age_days=1)
    assert "listed objects" in run("run", "sync_catalog").stdout
    assert ask("run", "sync_catalog", "--apply")["lost_videos"] == 0
    assert as_read(run("run", "sync_catalog", "--plan", "x", exit_code=2).stderr, **DRAWN) == snapshot(
        "error: sync_catalog has no option --plan"
    )


@pytest.mark.long
def test_a_layout_of_the_services_own_is_read_shown_and_taken_in(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prefix = scene.world.address.prefix
    keys = ("2024/01/a.mp4", "2024/01/b.mp4", "users/ann/outputs/c.mp4", "u1/c.mp4")
    for key in keys:
        scene.world.workspace.bucket.put_bytes_once(prefix + key, b"xxx", "video/mp4")
    monkeypatch.setenv("REELKEEPER_KEY_PATTERN", "{user}/x.{ext}")
    assert as_read(run("run", "sync_catalog", exit_code=2).stderr, **DRAWN) == snapshot("""\
error: settings (environment or .env): REELKEEPER_KEY_PATTERN: Value error, pattern
  '{user}/x.{ext}' has no {video}, so it cannot say which video a key is of\
""")
    patterns = "users/{user}/outputs/{video}.{ext}, {year}/{month}/{video}.{ext}, {user}/{video}.{ext}"
    monkeypatch.setenv("REELKEEPER_KEY_PATTERN", patterns)
    (tmp_path / "keys.csv").write_text(f"key,user_id\n{prefix}2024/01/a.mp4,bob\n")
    assert run("videos", "import", "--keys", str(tmp_path / "keys.csv")).stdout == snapshot("keys: 1 line imported\n")
    said = run("run", "sync_catalog").stdout
    assert as_read(said, **DRAWN) == snapshot("""\
found what
run id <run>
as of <at>+00:00
listed objects 4
listed bytes 12
unexplained 4
adopted 3
orphans 1
Would be adopted
by objects bytes
users/{user}/outputs/{video}.{ext} 1 3 B
{user}/{video}.{ext} 1 3 B
videos import --keys 1 3 B
For example
user video key
bob a <prefix>2024/01/a.mp4
ann c-<plan> <prefix>users/ann/outputs/c.mp4
u1 c-<plan> <prefix>u1/c.mp4
Stays out, and is kept
objects why, and the way out for example
1 nothing says whose it is: name its user with reelkeeper <prefix>2024/01/b.mp4
videos import --keys
Nothing was changed. To apply it: reelkeeper run sync_catalog --apply\
""")
    run("run", "sync_catalog", "--apply")
    colliding = ask("videos", "show", f"{prefix}u1/c.mp4")["video"]
    assert (colliding["user_id"], colliding["id"][:2]) == ("u1", "c-")
    assert ask("videos", "show", colliding["id"])["video"] == colliding
    made = ask("videos", "show", f"{prefix}2024/01/a.mp4")["video"]
    assert (made["user_id"], made["created_at"][:10]) == ("bob", "2024-02-01")
    refused = run("videos", "show", f"{prefix}2024/01/b.mp4", exit_code=8).stderr
    assert as_read(refused, **DRAWN) == snapshot("""\
error: no video '<prefix>2024/01/b.mp4' in the catalogue; the object at this key was not
  adopted: nothing says whose it is: name its user with reelkeeper videos import --keys\
""")


@pytest.mark.long
def test_doubtful_objects_are_named_and_patterns_that_do_not_fit_end_with_9(scene: Scene) -> None:
    bucket, prefix = scene.world.workspace.bucket, scene.world.address.prefix
    for key in ("ann/v.mp4", "ann/v/x.mp4"):
        bucket.put_bytes_once(prefix + key, b"xxx", "video/mp4")
    assert as_read(run("run", "sync_catalog", "--apply").stdout, only="unclear ", **DRAWN) == snapshot("""\
unclear 1
unclear keys <prefix>ann/v/x.mp4: one more file of a video whose bytes are at another\
""")
    run("run", "sync_catalog", "--apply")
    for number in range(21):
        bucket.put_bytes_once(f"{prefix}ann/all/{number}.mp4", b"xxx", "video/mp4")
    assert as_read(run("run", "sync_catalog").stdout, **DRAWN) == snapshot("""\
found what
run id <run>
as of <at>+00:00
listed objects 23
listed bytes 69
expected 1
seen 1
unexplained 22
orphans 22
Stays out, and is kept
objects why, and the way out for example
21 its pattern does not fit the bucket, and nothing was <prefix>ann/all/0.mp4
adopted by any <prefix>ann/all/1.mp4
<prefix>ann/all/10.mp4
1 one more file of a video whose bytes are at another <prefix>ann/v/x.mp4
key: if it is a video of its own, give it a video_id
with reelkeeper videos import --keys
With --apply, nothing would be adopted by a pattern: 21 files would be one video, 'all', where
  at most 20 may; 20 of 21 objects (95 %) would be further files of videos, such as 'all' with 21,
  where at most 50 % may. The patterns do not fit this bucket: see REELKEEPER_KEY_PATTERN, or name
  owners with reelkeeper videos import --keys. If it is right: --param
  adoption.max_files_of_a_video=21 --param adoption.max_further_files_percent=100.
Nothing was changed. To apply it: reelkeeper run sync_catalog --apply\
""")
    said = run("run", "sync_catalog", "--apply", exit_code=9).stderr
    overrides = said[said.index("--param") :].split()
    assert overrides[1::2] == ["adoption.max_files_of_a_video=21", "adoption.max_further_files_percent=100"]
    run("run", "sync_catalog", "--apply", *overrides)
    assert "all" in scene.states()
