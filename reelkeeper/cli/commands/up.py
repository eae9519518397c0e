"""Commands for one machine: `up` runs everything, `s3` the embedded S3 server, `demo` a demonstration."""

import importlib
import json
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from deployments import folder, orchestration
from reelkeeper.cli.opening import configured
from reelkeeper.cli.screen import dollars, say, size, table
from reelkeeper.cli.words import new_run_id
from reelkeeper.errors import Misconfigured, PolicyRefused
from reelkeeper.rules.core.wording import many

if TYPE_CHECKING:
    from collections.abc import Callable

    from reelkeeper.operations import Engine
    from reelkeeper.rules.lifecycle.report import Effect, Report
    from reelkeeper.settings import Settings


def up(
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port of Prefect's server; default: 4200 if free.")
    ] = None,
    api_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port of the API; default: 8787 if free.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Seconds to wait for active runs when it is stopped.")
    ] = 5,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="From now on, let schedules change a bucket that it did not create, after showing what they would do "
            "first; without it they make dry runs.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --live: do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Run everything on this machine: objects, store, Prefect with its schedules, a worker, the API, the watchdog.

    All parts listen only on loopback. A part that dies is restarted. If killed, it continues when started again.
    """
    settings = configured()
    if os.environ.get("PREFECT_API_URL"):
        raise Misconfigured("PREFECT_API_URL names another server: unset it, or use reelkeeper bootstrap and worker")
    folder.require()
    orchestration.stay(settings.state_dir)
    from deployments.up import Up, alone, is_live

    def tell(event: str, text: str, **facts: object) -> None:
        if as_json:
            sys.stdout.write(json.dumps({"event": event, "text": text, **facts}) + "\n")
            sys.stdout.flush()
        else:
            say(text)

    with alone(settings.state_dir.absolute()):
        if live and not is_live(settings):
            lines, remarks = _first_night(settings)
            if as_json:
                tell("first night", " ".join(remarks), lines=[line._asdict() for line in lines])
            else:
                say("What going live would change, and the first run of each flow, by what the store knows now:")
                table(("!flow", "!UTC", "will", ">bytes", ">$ a month"), [line.shown for line in lines])
                for remark in remarks:
                    say(remark)
            # guard up.asked: schedules change a bucket although nobody agreed to what they would do
            if not yes and not typer.confirm("Go live?", err=True):
                say("Nothing was changed.")
                raise typer.Exit(1)
        Up(settings, tell, port=port, api_port=api_port, patience=patience, live=live).run()


_NOTHING_KNOWN: Final = (
    "The catalogue is empty, so what there will be to do is not known: start it without --live first, which takes in "
    "what is stored and changes nothing"
)
_WRITES: Final = (
    "The line of up --live is all that going live itself writes. From then on, under {scope!r}: what compresses writes "
    "the result and, in place, a copy of the original; what retires writes nothing, and what is retired stays stored "
    "until purge_retired deletes it; what deletes, restores or holds first writes to {at}.epochs/; a restore "
    "puts originals back; jobs and uploads write videos and images; doctor writes {at}.reelkeeper-probe, once."
)
_DUE: Final = {"tier_storage": "02:00", "expire_videos": "03:00", "purge_retired": "04:00", "prune_cache": "05:00"}


class _Line(NamedTuple):
    """The work of a flow's first run, for one rule."""

    flow: str
    due: str
    will: str = "nothing"
    size_bytes: int = 0
    saving_microusd: int | None = 0

    @property
    def shown(self) -> tuple[str, ...]:
        saving = "unknown" if self.saving_microusd is None else dollars(self.saving_microusd)
        return (*self[:3], size(self.size_bytes), saving) if self.size_bytes else (*self[:3], "", "")


def _first_night(settings: "Settings") -> tuple[list[_Line], list[str]]:
    """List what each flow would change in its first run, by plans on the store as it is now, and remarks on them."""
    from reelkeeper.adapters.s3.keys import IDENTITY
    from reelkeeper.operations import now, reading
    from reelkeeper.operations.core.policies import current
    from reelkeeper.operations.core.workspace import open_workspace
    from reelkeeper.operations.health.bucket_checks import require_may_go_live
    from reelkeeper.operations.health.status import awaited
    from reelkeeper.operations.jobs import prune_cache
    from reelkeeper.operations.lifecycle import previews
    from reelkeeper.operations.lifecycle.previews import plans_service_keys
    from reelkeeper.rules.lifecycle.report import Effect

    lines, remarks = list[_Line](), list[str]()
    with open_workspace(settings, claims=False) as opened:
        require_may_go_live(opened, settings)
        engine, claim = opened.engine, f"claim the bucket: write {settings.prefix}{IDENTITY}"
        again = f"change this bucket, which is this store's, at this address (before: {opened.live_at or 'none'})"
        lines.append(_Line("up --live", "now", again if opened.is_ours else claim))
        with reading(engine) as session:
            at, deployed = now(session), awaited(session).flows
        may = partial(plans_service_keys, engine, settings, live=True)
        work = previews.Planning(engine, at, new_run_id("up"), may)
        for flow, due in _DUE.items():
            if flow not in deployed:
                continue
            if flow == "prune_cache":
                pruned = prune_cache.draw(engine, current(engine).policies.pruning, at).by_rule()
                found = [
                    Effect(f"drop {many(part.entries, 'cached video')}: {part.rule}", part.size_bytes)
                    for part in pruned
                ]
            else:
                found, told = _planned(engine, partial(getattr(previews, flow), work), flow)
                remarks += [remark for remark in told if remark not in remarks]
            lines += [_Line(flow, due, *each) for each in found] or [_Line(flow, due)]
    return lines, [*remarks, _WRITES.format(scope=opened.bucket.scope, at=settings.prefix)]


def _planned(engine: "Engine", plan: "Callable[[], Report]", flow: str) -> "tuple[list[Effect], list[str]]":
    from reelkeeper.operations.lifecycle import plans
    from reelkeeper.rules.lifecycle.report import Effect, effects

    try:
        report = plan()
    except PolicyRefused:
        return [Effect("nothing, as its rules are off")], []
    told = [] if report.plan.population.objects else [_NOTHING_KNOWN]
    if report.refusal:
        told.append(f"The limits would refuse {flow}: {report.refusal}")
    else:
        told = [*plans.remarks(engine, report.plan, in_trial=False), *told]
    return effects(report.planned, is_refused=bool(report.refusal)), told


s3_group = typer.Typer(no_args_is_help=True)


@s3_group.callback()
def s3() -> None:
    """Run the embedded S3 server, for a machine without R2."""


@s3_group.command()
def start(
    for_seconds: Annotated[float | None, typer.Option("--for", min=0, help="Stop after this many seconds.")] = None,
) -> None:
    """Run the embedded S3 server until Ctrl-C. Commands with the same state folder share it, and start faster."""
    settings = configured()
    if settings.endpoint_url:
        raise Misconfigured(f"{settings.endpoint_url} is set, so the embedded server is not used; unset it first")
    from reelkeeper.adapters.s3 import seaweed

    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with seaweed.running(settings.state_dir / "s3", settings.bucket) as endpoint:
        say(f"S3 at {endpoint.endpoint_url}, bucket {settings.bucket}, files in {settings.state_dir / 's3'}.")
        say("Commands with this state folder find it by themselves. For others:")
        say(f"  export REELKEEPER_S3_ENDPOINT_URL={endpoint.endpoint_url}")
        say(f"  export REELKEEPER_S3_ACCESS_KEY_ID={endpoint.access_key_id}")
        say(f"  export REELKEEPER_S3_SECRET_ACCESS_KEY={endpoint.secret_access_key}")
        say("Ctrl-C stops it.")
        done.wait(for_seconds)
    say("Stopped.")


def demo(
    folder: Annotated[
        Path, typer.Option("--dir", file_okay=False, help="Folder for its state, which is kept for inspection.")
    ] = Path(".reelkeeper/demo"),
    fresh: Annotated[
        bool, typer.Option("--fresh/--keep", help="Also recreate the clips and Prefect's records.")
    ] = False,
) -> None:
    """Demonstrate the main job on real videos: sync, plan, compress, expire, restore, purge, and a refusal.

    It also shows a month's costs, and a burst of requests over HTTP: queued, generated, and served from the cache.
    It takes a minute or two, and touches nothing outside its folder: none of your settings, buckets or Prefect servers.
    """
    importlib.import_module("demo.demo").play(folder, fresh=fresh)
