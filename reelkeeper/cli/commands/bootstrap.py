"""For a Prefect server of one's own: `bootstrap`, what it needs before prefect.yaml is deployed to it, and `worker`.

`migrate` brings over all that 0.1.0 left.
"""

import os
from contextlib import nullcontext
from typing import Annotated

import typer

from reelkeeper.cli import orchestration
from reelkeeper.cli.commands import database, policy
from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import say


def bootstrap(
    api_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where Prefect's server reaches our API; else REELKEEPER_API_URL."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Reset changed limits to their initial values.")] = (False),
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


def migrate(file: policy.OldFile, param: policy.OldParams = None, yes: policy.Yes = False) -> None:
    """Bring a deployment of 0.1.0 over: the store's schema, the policies in its prefect.yaml, and its deployments.

    Stop its workers first, and stand in the folder of this release's prefect.yaml. It may be run again at any time.
    """
    before = policy.collected(file, param)
    database.upgrade()
    with store() as engine:
        policy.put_in_force(engine, before, "from the prefect.yaml of 0.1.0", yes=yes)
    if not os.environ.get("PREFECT_API_URL"):
        say("Deployments get their new names when `reelkeeper up` starts. For another server, set PREFECT_API_URL.")
        return
    bootstrap()
    from deployments.deploy import redeploy

    redeploy(configured().state_dir)


def worker(
    pools: Annotated[list[str], typer.Argument(metavar="POOL...", help="default, transcode, or both.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="Runs at once, for each pool.")] = 4,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long it waits for its runs when told to stop.")
    ] = 60,
    healthcheck: Annotated[
        bool, typer.Option("--healthcheck", help="Answer GET /health at PREFECT_WORKER_WEBSERVER_PORT (8080).")
    ] = False,
) -> None:
    """Run flows of these work pools until Ctrl-C or SIGTERM; then it takes no more runs, and waits for its own.

    What it cannot wait for ends in order and is handed over: the next worker begins it again, with the same parameters.
    Where R2's event notifications are set up, a worker of the pool default follows them beside its runs.
    It takes nothing, and ends with exit code 7, where it does not know the store's schema or policies.
    """
    settings = configured()
    from reelkeeper.operations.core.policies import current

    with store() as engine:
        # guard policy.worker: a worker takes flow runs that it cannot do, and each of them fails
        current(engine)
    orchestration.join_server(settings.state_dir)
    import asyncio
    import logging
    from functools import partial

    from deployments.worker import work

    tell = logging.getLogger("reelkeeper.worker").info if settings.log_format == "json" else say
    beside = None
    if settings.event_queue_id and "default" in pools:
        from reelkeeper.operations.sync.following import follow_bucket

        beside = partial(follow_bucket, settings)
    asyncio.run(work(pools, limit=limit, patience=patience, healthcheck=healthcheck, say=tell, beside=beside))
