"""`bootstrap`: what a Prefect server needs before prefect.yaml is deployed to it."""

from contextlib import nullcontext
from typing import Annotated

import typer

from reelkeeper.cli import orchestration
from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import say


def bootstrap(
    api_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where Prefect's server reaches our API; else REELKEEPER_API_URL."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Set limits that were moved back to their first values.")] = (
        False
    ),
) -> None:
    """Make work pools, the limit of jobs at once and automations at the Prefect server that PREFECT_API_URL names.

    It may be run again at any time: what is there stays as people and tune_concurrency have set it.
    """
    settings = configured()
    orchestration.join_server(settings.state_dir)
    orchestration.require_server()
    from deployments import bootstrap as setting_up

    at = api_url or settings.api_url
    with store() if at else nullcontext() as engine:
        for line in setting_up.bootstrap(engine=engine, api_url=at, force=force):
            say(line)
