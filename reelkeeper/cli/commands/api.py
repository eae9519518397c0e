"""`api`: serve the HTTP API."""

from contextlib import suppress
from typing import Annotated

import typer

from reelkeeper.cli.opening import configured, store, workspace
from reelkeeper.cli.screen import emit

_PATIENCE_SECONDS = 20  # for open requests when it is stopped


def api(
    host: Annotated[str, typer.Option(help="Address to listen on. Put any but loopback behind a TLS proxy.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 for a free one.")] = 8787,
    schema: Annotated[bool, typer.Option("--schema", help="Print the OpenAPI schema and exit.")] = False,
) -> None:
    """Serve the HTTP API until Ctrl-C. Callers need a token from `reelkeeper tokens create`.

    It uses the limits and prices of the policies in force (`reelkeeper policy show`), and picks up new versions.
    """
    import uvicorn

    from reelkeeper.adapters import orchestrator
    from reelkeeper.api.app import create_app
    from reelkeeper.api.app_state import AppState
    from reelkeeper.api.delivering import Delivering
    from reelkeeper.api.server import LET_IN, Connection, Server, limit_arenas
    from reelkeeper.operations import limit_lock_waits
    from reelkeeper.operations.alerts.outbox import configured_sinks
    from reelkeeper.rules.core.request_limits import WAIT_SECONDS

    limit_arenas()
    settings = configured()
    with workspace() as opened, store() as unhurried:
        limit_lock_waits(opened.engine, WAIT_SECONDS)
        prefect = orchestrator.connect(settings)
        app = create_app(
            AppState(
                opened,
                settings.scratch,
                prefect,
                settings.provider,
                settings.allow_private_addresses,
                settings.cors_origins,
                Delivering(unhurried, configured_sinks(settings), prefect),
            )
        )
        if schema:
            emit(app.openapi())
            return
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=Connection,
            ws="none",
            backlog=LET_IN,
            timeout_graceful_shutdown=_PATIENCE_SECONDS,
            server_header=False,
            log_level=settings.log_level.lower(),
            log_config=uvicorn.config.LOGGING_CONFIG if settings.log_format == "text" else None,  # None: to the root
        )
        with suppress(KeyboardInterrupt):  # Ctrl-C is the way to end it
            Server(config, app.state.load, app.state.following.stop).run()
