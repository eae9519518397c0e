"""Commands for one machine: `up` runs everything, `s3` the embedded S3 server, `demo` a demonstration."""

import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from reelkeeper.cli import orchestration
from reelkeeper.cli.opening import configured
from reelkeeper.cli.screen import say
from reelkeeper.errors import Misconfigured


def up(
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port of Prefect's server; default: 4200 if free.")
    ] = None,
    api_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port of the API; default: 8787 if free.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Seconds to wait for active runs when it is stopped.")
    ] = 30,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="From now on, let schedules change a bucket that it did not create; without it they make dry runs.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Run everything on this machine: objects, store, Prefect with its schedules, a worker, the API, the watchdog.

    All parts listen only on loopback. A part that dies is restarted. If killed, it continues when started again.
    """
    settings = configured()
    if os.environ.get("PREFECT_API_URL"):
        raise Misconfigured("PREFECT_API_URL names another server: unset it, or use reelkeeper bootstrap and worker")
    orchestration.stay(settings.state_dir)
    from deployments.up import Up, alone

    def tell(event: str, text: str, **facts: object) -> None:
        if as_json:
            sys.stdout.write(json.dumps({"event": event, "text": text, **facts}) + "\n")
            sys.stdout.flush()
        else:
            say(text)

    with alone(settings.state_dir.absolute()):
        Up(settings, tell, port=port, api_port=api_port, patience=patience, live=live).run()


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
