"""`up`: everything on this machine, until Ctrl-C."""

import json
import os
import sys
from typing import Annotated

import typer

from reelkeeper.cli import orchestration
from reelkeeper.cli.opening import configured
from reelkeeper.cli.screen import say
from reelkeeper.errors import Misconfigured


def up(
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port of Prefect's server: 4200 unless taken.")
    ] = None,
    api_port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port of the API: 8787 unless taken.")] = None,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long it waits for runs at work when told to stop.")
    ] = 30,
    live: Annotated[
        bool,
        typer.Option("--live", help="Let schedules act on a bucket that it did not make, from now on; else dry runs."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each thing that happens.")] = False,
) -> None:
    """Run everything on this machine: objects, store, Prefect with its schedules, a worker, the API, the watchdog.

    All of it listens on loopback only. What dies is started again. Killed, and started again, it goes on.
    """
    settings = configured()
    if os.environ.get("PREFECT_API_URL"):
        raise Misconfigured("PREFECT_API_URL names a server already: unset it, or see reelkeeper bootstrap and worker")
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
