"""`worker`: take flow runs from Prefect's work pools, and drain when told to stop."""

from typing import Annotated

import typer

from reelkeeper.cli import orchestration
from reelkeeper.cli.opening import configured, store
from reelkeeper.cli.screen import say


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
