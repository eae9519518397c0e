"""Commands for your own Prefect server: `bootstrap` prepares it, `deploy` deploys prefect.yaml, `worker` runs flows.

`migrate` upgrades a deployment of 0.1.0.
"""

import os
from typing import Annotated

import typer

from deployments import folder, orchestration
from reelkeeper.cli.commands import database, policy
from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import say


def bootstrap(
    force: Annotated[bool, typer.Option("--force", help="Reset changed limits to their initial values.")] = (False),
    claim: Annotated[
        bool, typer.Option("--claim", help="Take the server over for this store, from a deployment that is no more.")
    ] = False,
) -> None:
    """Create work pools, the limit of concurrent jobs and automations at the Prefect server of PREFECT_API_URL.

    It records this store's deployment there: machines with another store take none of the server's runs. It is safe to
    repeat: existing limits stay as people and tune_concurrency have set them.
    """
    settings = configured()
    orchestration.join_server(settings.state_dir)
    orchestration.require_server()
    from deployments import bootstrap as setting_up

    setting_up.require_record(claim=claim)
    with store() as engine:
        for line in setting_up.bootstrap(engine=engine, api_url=settings.api_url, force=force, claim=claim):
            say(line)


def deploy() -> None:
    """Deploy this folder's prefect.yaml, or else this release's, to the Prefect server of PREFECT_API_URL.

    Run `reelkeeper bootstrap` first. Deployments and schedules that a person has paused stay paused, where
    `prefect deploy --all` resumes them. It is safe to repeat.
    """
    orchestration.join_server(configured().state_dir)
    orchestration.require_server()
    from deployments.deploy import redeploy

    redeploy()


def migrate(file: policy.OldFile, param: policy.OldParams = None, yes: policy.Yes = False) -> None:
    """Upgrade a deployment of 0.1.0: the store's schema, the policies in its prefect.yaml, and its deployments.

    Stop its workers first, and run this in the folder of this release's prefect.yaml. It is safe to repeat.
    """
    before = policy.collected(file, param)
    database.upgrade()
    with store() as engine:
        policy.put_in_force(engine, before, "from the prefect.yaml of 0.1.0", yes=yes)
    if not os.environ.get("PREFECT_API_URL"):
        say("Deployments get their new names when `reelkeeper up` starts. For another server, set PREFECT_API_URL.")
        return
    bootstrap()
    deploy()


def worker(
    pools: Annotated[list[str], typer.Argument(metavar="POOL...", help="main, encode, or both.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="Concurrent runs, for each pool.")] = 4,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Seconds to wait for active runs on a signal to stop.")
    ] = 60,
    healthcheck: Annotated[
        bool, typer.Option("--healthcheck", help="Serve GET /health at PREFECT_WORKER_WEBSERVER_PORT (8080).")
    ] = False,
    looks_only: Annotated[
        bool, typer.Option("--looks-only", hidden=True, help="Refuse runs that change stored videos, as under `up`.")
    ] = False,
) -> None:
    """Run flows of these work pools until Ctrl-C or SIGTERM; then take no more runs, and wait for the active ones.

    Runs that last longer than its patience are stopped and handed over: the next worker starts them again, with the
    same parameters. If R2's event notifications are set up, a worker of the pool main also follows them.
    It takes no runs, and ends, if its store is not that of the deployment which `bootstrap` has recorded (exit code 9),
    if it does not know the store's schema or policies (7), or if ffmpeg or the sandbox does not work (1).
    """
    settings = configured()
    folder.require()
    orchestration.join_server(settings.state_dir)
    import asyncio
    import logging
    from functools import partial

    from deployments.machine import Machine
    from deployments.pools import RENAMED
    from deployments.worker import work

    machine = Machine(settings)
    machine.require()
    if looks_only:
        from deployments.deploy import storage_flows
        from deployments.up import find_prefect_yaml

        machine.dry_only = storage_flows(find_prefect_yaml())

    tell = logging.getLogger("reelkeeper.worker").info if settings.log_format == "json" else say
    for old in [pool for pool in pools if pool in RENAMED]:
        tell(f"The work pool {old} of 0.1.0 is now {RENAMED[old]}, to which `reelkeeper bootstrap` has moved its runs.")
    pools = list(dict.fromkeys(RENAMED.get(pool, pool) for pool in pools))
    beside = None
    if settings.event_queue_id and "main" in pools:
        from reelkeeper.operations.sync.following import follow_bucket

        beside = partial(follow_bucket, settings)
    asyncio.run(
        work(pools, limit=limit, patience=patience, healthcheck=healthcheck, say=tell, machine=machine, beside=beside)
    )
