"""`reelkeeper demo`: the main job on real videos, in one process, explained step by step.

Everything uses the code of production: flows, operations, the bucket. Only two things are simulated: the service's
uploads, and a week, which passes by moving back the timestamps of retired objects.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.rule import Rule

from demo import check, clips, money, requests, stage
from reelkeeper.cli.commands.run import show_plan
from reelkeeper.cli.screen import dollars, out, say, size, table
from reelkeeper.errors import GuardRefused
from reelkeeper.model import Grace
from reelkeeper.operations.billing.users import import_users
from reelkeeper.operations.core.workspace import Workspace, open_workspace
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.videos.hold import hold
from reelkeeper.rules.core.wording import searched
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.lifecycle.transcode import Recipe
from reelkeeper.rules.lifecycle.worth import Payback
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import blobs, videos
from reelkeeper.store.videos import imports
from reelkeeper.store.videos.holds import HoldTerms

_GRACE_DAYS = Grace().service_days  # the videos' keys are the service's
_VIEWED_DAYS_AGO = 16  # longer than the grace: videos viewed since are kept
_WINDOW_DAYS = 30
_AT_ANY_PRICE = Recipe(payback=Payback(cpu_usd_per_hour=None))


@dataclass(slots=True)
class Scene:
    """State shared by the steps: store and bucket, the uploaded files, and the bucket's contents at each step."""

    workspace: Workspace
    files: dict[str, Path]
    held_bytes: dict[str, tuple[int, int]]  # step -> objects, bytes
    request_log: requests.RequestLog = field(default_factory=requests.RequestLog)

    def count(self, step: str) -> None:
        """Record the number of objects and bytes in the bucket."""
        sizes = [stored.size_bytes for page in self.workspace.bucket.pages() for stored in page]
        self.held_bytes[step] = len(sizes), sum(sizes)


def play(folder: Path, *, fresh: bool = False) -> None:
    """Run the whole demo in `folder`, which is emptied first if an earlier demo made it."""
    began = time.monotonic()
    folder = stage.prepare(folder, fresh=fresh)
    out.print(Rule("[bold]Reelkeeper: cold videos shrink, expired videos are deleted, nothing is lost[/]"))
    say(f"{len(clips.CAST)} short videos of four users, all on this machine. State: {folder}")
    say("Starting an S3 server and Prefect, and encoding the videos ...")
    with ThreadPoolExecutor(1) as beside, open_workspace(settings()) as workspace:
        encoding = beside.submit(clips.encode, clips.CAST, folder / "clips")
        with stage.orchestrated():
            scene = Scene(workspace, encoding.result(), {})
            say(f"Ready after {time.monotonic() - began:.0f} s.")
            for number, (title, step) in enumerate(_STEPS, 1):
                out.print(f"\n[bold cyan]{number}. {title}[/]")
                step(scene)
    _close(folder, time.monotonic() - began)


def _upload(scene: Scene) -> None:
    bucket = scene.workspace.bucket
    for clip in clips.CAST:
        bucket.put_once(f"{bucket.prefix}{clip.user_id}/{clip.video_id}.mp4", scene.files[clip.video_id], "video/mp4")
    scene.count("as uploaded")
    objects, size_bytes = scene.held_bytes["as uploaded"]
    say(f"{objects} objects, {size(size_bytes)}, under keys such as {bucket.prefix}ana/ana-bunny.mp4.")
    say("One upload was interrupted (ben-cut), one is AV1 already (chloe-av1), one is small already (chloe-small),")
    say("and one is so grainy that it cannot be smaller at the same quality (chloe-grain).")


def _adopt(scene: Scene) -> None:
    from flows.sync_catalog import sync_catalog  # noqa: PLC0415  Prefect reads the demo's environment, set before

    report = sync_catalog(dry_run=False)
    say(f"sync_catalog listed {report.listed_objects} objects and adopted {report.adopted}.")
    now = datetime.now(UTC)
    days = [(now - timedelta(days=ago)).date() for ago in range(1, _WINDOW_DAYS + 1)]
    cast, engine = clips.CAST, scene.workspace.engine
    created = {clip.video_id: now - timedelta(days=clip.age_days) for clip in cast}
    import_users(engine, ["id,tier,created_at", *(f"{user},{tier}," for user, tier in clips.TIERS.items())])
    imports.import_videos(
        engine,
        ["id,user_id,created_at", *(f"{c.video_id},{c.user_id},{created[c.video_id].isoformat()}" for c in cast)],
    )
    viewed = [f"{c.video_id},{days[_VIEWED_DAYS_AGO - 1]},{c.views}" for c in cast if c.views]
    imports.import_views(engine, ["video_id,day,views", *viewed])
    imports.mark_complete(engine, days)
    hold(engine, HoldTerms("video", "chloe-held", "a court asked for it", "demo"))
    say("Tiers, ages and views were imported from CSV, as `reelkeeper videos import` does;")
    say("dan's tier is in no file. chloe-held is held: `reelkeeper hold --video chloe-held --reason ...`.")


def _plan(scene: Scene) -> None:
    from flows.tier_storage import tier_storage  # noqa: PLC0415  as above

    say("Compressing clips so short costs more than it saves at R2's price, so they would be kept as they are. For")
    say("this reason the demo sets --param recipe.payback.cpu_usd_per_hour=never.")
    _shown(scene, tier_storage(recipe=_AT_ANY_PRICE))
    say("Nothing was changed: every flow makes a dry run unless --apply is given.")


def _try(_scene: Scene) -> None:
    from reelkeeper.cli.commands.simulate import lifecycle  # noqa: PLC0415  pandas, which takes a second

    document = settings().state_dir / "stricter.yaml"
    document.write_text(
        "tiers: {free: {retention_days: 10}, premium: {}, pro: {}}\nlifecycle: {retire_after_days: 20}\n"
    )
    say(f"Before a policy is applied, it can be simulated: reelkeeper simulate lifecycle --policy {document.name}")
    lifecycle(policy=[document], months=3)


def _refuse(_scene: Scene) -> None:
    from flows.tier_storage import tier_storage  # noqa: PLC0415  as above

    say("The blast radius limits what one run may change. With a limit of 0 videos:")
    try:
        tier_storage(limits=BlastRadius(max_objects=0), recipe=_AT_ANY_PRICE, dry_run=False)
    except GuardRefused as refusal:
        out.print(f"[yellow]{str(refusal).replace('[', chr(92) + '[')}[/]", soft_wrap=True)
        say(f"The command ends with exit code {refusal.exit_code}. Nothing was changed.")
        return
    raise AssertionError("the guard allowed a plan that retires a video under a limit of 0")


def _tier(scene: Scene) -> None:
    from flows.tier_storage import tier_storage  # noqa: PLC0415  as above

    say("The default limits always allow three videos, since percentages mean little for so few.")
    report = tier_storage(recipe=_AT_ANY_PRICE, dry_run=False)
    _shown(scene, report)
    say(searched(report.searches))
    shrunk = next(done for done in report.done if done.outcome == "compressed")
    saved = 1 - shrunk.after_bytes / shrunk.before_bytes
    say(
        f"{shrunk.objects} videos shrank from {size(shrunk.before_bytes)} to {size(shrunk.after_bytes)}: "
        f"{saved:.0%} less, at a mean VMAF of 93 of 100 or better."
    )
    say("Each result was read back from the bucket and decoded to its last frame before it replaced the original.")
    scene.count("old and new files, during the grace")


def _expire(scene: Scene) -> None:
    from flows.expire_videos import expire_videos  # noqa: PLC0415  as above

    _shown(scene, expire_videos(dry_run=False))
    say(f"Retired is not deleted: a retired video can be restored for {_GRACE_DAYS} days.")


def _restore(scene: Scene) -> None:
    found = find_restorable(scene.workspace, video_id="ben-cold")
    restore(scene.workspace, found, run_id="demo-restore", author="demo", grace=Grace(), hold_days=30)
    check.require_same(scene.workspace, "ben-cold", scene.files["ben-cold"])
    say("ben-cold is restored, byte for byte, and held for 30 days, so that the next run does not retire it again.")
    say("As a command: `reelkeeper restore --video ben-cold`.")


def _purge(scene: Scene) -> None:
    from flows.purge_retired import purge_retired  # noqa: PLC0415  as above

    moved = _let_time_pass(scene.workspace, timedelta(days=_GRACE_DAYS + 1))
    say(f"The demo moves the timestamps of {moved} retired objects back by {_GRACE_DAYS + 1} days; only a demo does.")
    _shown(scene, purge_retired(dry_run=False))
    scene.count("after the purge")


def _let_time_pass(workspace: Workspace, time_passed: timedelta) -> int:
    import sqlalchemy as sa  # noqa: PLC0415  used here alone

    with transaction(workspace.engine, "demo.time") as session:
        waiting = session.execute(
            sa.select(blobs.c.id, blobs.c.retired_at, blobs.c.purge_after).where(blobs.c.state == "retired")
        ).all()
        for blob_id, retired_at, purge_after in waiting:
            earlier = {"retired_at": retired_at - time_passed, "purge_after": purge_after - time_passed}
            session.execute(sa.update(blobs).where(blobs.c.id == blob_id).values(**earlier))
            session.execute(
                sa.update(videos)
                .where(videos.c.blob_id == blob_id, videos.c.retired_at.is_not(None))
                .values(retired_at=earlier["retired_at"])
            )
        return len(waiting)


def _check(scene: Scene) -> None:
    table(("!video", "state", ">bytes", "codec", "when read back"), check.every_video(scene.workspace, scene.files))


def _sum_up(scene: Scene) -> None:
    from reelkeeper.rules.billing.pricing import storage_microusd_per_month  # noqa: PLC0415  used here alone

    first = scene.held_bytes["as uploaded"][1]
    terabyte = 10**12
    rows = []
    for step, (objects, size_bytes) in scene.held_bytes.items():
        share = size_bytes / first
        at_scale = dollars(storage_microusd_per_month(round(terabyte * share)))
        rows.append((step, objects, size(size_bytes), f"{share:.0%}", at_scale))
    table(("bucket", ">objects", ">bytes", ">of it", ">per month for 1 TB of such videos"), rows)
    say("R2 charges $0.015 per GB and month, and nothing for egress.")


def _shown(scene: Scene, report: Report) -> None:
    show_plan(scene.workspace.engine, report.plan.id, 20)


_STEPS = (
    ("The service stores videos", _upload),
    ("sync_catalog: adopt them into the catalogue", _adopt),
    ("tier_storage, dry run: what would happen, and why", _plan),
    ("simulate lifecycle: try another policy", _try),
    ("A run that would change too much is refused", _refuse),
    ("tier_storage --apply: compress cold videos, retire the coldest", _tier),
    ("expire_videos --apply: retire videos past their retention", _expire),
    ("restore: bring a video back", _restore),
    ("A week later, purge_retired --apply: only now bytes are deleted", _purge),
    ("Check: every video is read back and decoded", _check),
    ("What it saves", _sum_up),
    ("monitor_costs --apply: the bill of the month", lambda scene: money.spend(scene.workspace)),
    ("Alerts", lambda scene: money.alert(scene.workspace)),
    ("forecast_costs --apply: this month and the next", lambda scene: money.forecast(scene.workspace)),
    ("The report", lambda scene: money.look(scene.workspace)),
    ("The HTTP API: all users send requests at once", lambda scene: requests.burst(scene.workspace, scene.request_log)),
    ("dispatch_jobs --apply: generate the videos", lambda scene: requests.make(scene.workspace, scene.request_log)),
    ("The same requests again: from the cache", lambda scene: requests.again(scene.workspace, scene.request_log)),
    ("tune_concurrency --apply: how many jobs at once", lambda scene: requests.tune(scene.workspace)),
    (
        "Two offers of a model: the cheaper one, until it is locked",
        lambda s: requests.reroute(s.workspace, s.request_log),
    ),
)


def _close(folder: Path, seconds: float) -> None:
    out.print(f"\n[bold]Done in {seconds:.0f} s.[/] Look around:")
    programs = Path(sys.executable).parent
    on_path = str(programs) in os.environ.get("PATH", "").split(os.pathsep)
    command, prefect = ("reelkeeper", "prefect") if on_path else (programs / "reelkeeper", programs / "prefect")
    say(f"  export REELKEEPER_STATE_DIR={folder} PREFECT_HOME={folder / 'prefect'}")
    for words, why in (
        ("videos", "what the catalogue holds"),
        ("videos show ana-bunny", "one video and its history"),
        ("plan --list", "saved plans and their outcomes"),
        ("audit verify", "check that the audit record is complete"),
        ("bill --by user", "charges by user"),
        ("alerts list", "alerts that fire"),
        ("performance", "waiting and processing times of jobs"),
    ):
        say(f"  {command} {words:<24}{why}")
    say(f"  {prefect} server start            Prefect's UI: runs, plans and reports")
