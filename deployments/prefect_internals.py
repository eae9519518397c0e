"""Wrap the private parts of Prefect that Reelkeeper uses, all in this one module.

`USED` says for each name what would break without it. A new version of Prefect may remove one without notice:
`tests/deployments/test_prefect_internals.py` then fails with that text. Names that only one process needs are imported
inside the functions, since each flow run imports this module before it begins.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from prefect._internal import control_listener
from prefect.context import refresh_global_settings_context
from prefect.utilities.engine import is_prefect_sigterm_handler_installed as is_sigterm_handler_installed

from reelkeeper.adapters.parent import before_exec
from reelkeeper.errors import OrchestratorError

if TYPE_CHECKING:
    from prefect.server.database.configurations import AioSqliteConfiguration

__all__ = [
    "USED",
    "is_sigterm_handler_installed",
    "note_hand_over",
    "outlast_restarts",
    "run_healthcheck_server",
    "schedule",
    "sqlite",
    "start_temporary_server",
    "wake_less",
]
USED: Final = {  # module:name, with its parameters; without parentheses, an attribute that Prefect's code sets
    "prefect._internal.control_listener:_set_intent(value)": "runs of a drained worker crash, and are not handed over",
    "prefect.utilities.engine:is_prefect_sigterm_handler_installed()": "a lost SIGTERM is not sent again",
    "prefect.cli.deploy._schedules:_schedule_config_to_deployment_schedule(schedule_config)": "`up` has no schedules",
    "prefect.server.database.configurations:AioSqliteConfiguration.begin_transaction(self, session, with_for_update)": (
        "Prefect's API under `up` answers 503 while runs write"
    ),
    "prefect.server.api.server:create_app(settings, ephemeral, webserver_only, final, ignore_cache)": (
        "a run has no server of its own"
    ),
    "prefect.context:refresh_global_settings_context()": "a run does not find its own server",
    "prefect.server.api.background_workers:Worker(docket, name, concurrency, redelivery_timeout, reconnection_delay, "
    "minimum_check_interval, scheduling_resolution, schedule_automatic_tasks, enable_internal_instrumentation, "
    "fallback_task, dependencies, message_batch)": "a server at rest wakes four times as often",
    "prefect.client.base:PrefectHttpxSyncClient._has_connected": "a run that begins as its server restarts crashes",
    "prefect.client.base:PrefectHttpxAsyncClient._has_connected": "the same",
    "prefect.workers.server:_run_healthcheck_server(is_healthy, log_level)": "a worker has no health check",
    "prefect.workers.base:BaseWorker._sync_and_initialize(self)": "a worker ends if its server is down at its start",
    "prefect.workers.base:BaseWorker._get_scheduled_flow_runs(self)": "after an outage, every missed run is run",
    "prefect.workers.base:BaseWorker._has_successfully_synced": "a pool that is created later is not found",
    "prefect.workers.base:BaseWorker._last_polled_time": "workers are restarted while their server is away",
    "prefect.workers.base:BaseWorker._submitting_flow_run_ids": "a draining worker may end while its next run starts",
    "prefect.workers.process:ProcessWorker.run(self, flow_run, configuration, task_status)": (
        "a draining worker does not know its runs"
    ),
}
_TEMPORARY: Final = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


def note_hand_over() -> None:
    """Let the run of this process end at SIGTERM without a final state, since it will be started again."""
    control_listener._set_intent("reschedule")  # noqa: SLF001  as `prefect flow-run execute` asks by its own channel


def outlast_restarts() -> None:
    """Let this process send requests again, for a minute, where nothing listens, as while Prefect's server restarts.

    Prefect does so once a client has had an answer, lest a wrong URL be tried for long. Of a run, its worker had one.
    """
    from prefect.client import base  # noqa: PLC0415  for runs alone

    for client in (base.PrefectHttpxSyncClient, base.PrefectHttpxAsyncClient):
        client._has_connected = property(lambda _: True, lambda *_: None)  # type: ignore[assignment]  # noqa: SLF001  no setting says so


def run_healthcheck_server(is_healthy: Callable[[], bool]) -> AbstractContextManager[None]:
    """Serve a worker's health check, as `prefect worker start --with-healthcheck` does."""
    from prefect.workers.server import _run_healthcheck_server  # noqa: PLC0415  for workers alone

    return _run_healthcheck_server(is_healthy)


def schedule(written: dict[str, Any]) -> dict[str, Any]:
    """Convert a schedule from prefect.yaml to the fields of a deployment's schedule."""
    from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule  # noqa: PLC0415  for `up` alone

    return _schedule_config_to_deployment_schedule(written)


def start_temporary_server() -> None:
    """Start the server that Prefect starts for a run where none is named: it ends with this process, and not before.

    A terminal interrupts all processes of a session at once. The run then has its end to tell, and waits for minutes
    for a server that is gone. A server that outlives a killed run keeps its output open: `run | tail` would not end.
    Prefect would also load the whole server into this process.
    """
    import prefect  # noqa: PLC0415  for commands
    from prefect import settings  # noqa: PLC0415  the same

    from tasks import runs  # noqa: PLC0415  the same

    if settings.PREFECT_API_URL.value() or not settings.PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        return
    with socket.socket() as place:  # it keeps the port from others until the server listens there
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", 0))
        host, port = place.getsockname()
        app = ["--app-dir", str(prefect.__module_path__.parent), "--factory", "prefect.server.api.server:create_app"]
        at = ["--host", host, "--port", str(port), "--log-level", "error", "--lifespan", "on"]
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", *app, *at],
            env=os.environ | settings.get_current_settings().to_environment_variables(exclude_unset=True) | _TEMPORARY,
            start_new_session=True,
            preexec_fn=before_exec(),  # noqa: PLW1509  it calls only what was loaded before the fork
        )
        atexit.register(_stop, server)
        _wait_for(server, (host, port), settings.PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
    os.environ["PREFECT_API_URL"] = f"http://{host}:{port}/api"
    refresh_global_settings_context()
    runs.has_own_server = True


def _wait_for(server: "subprocess.Popen[bytes]", address: tuple[str, int], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while (code := server.poll()) is None and time.monotonic() < ends:
        with suppress(OSError):
            return socket.create_connection(address).close()  # it listens once it can answer
        time.sleep(0.1)
    how = f"gave no answer for {seconds:.0f} s" if code is None else f"ended with exit code {code}"
    raise OrchestratorError(f"Prefect's server, started for this run, {how}: set PREFECT_API_URL to use another")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(5)
    server.kill()


def wake_less() -> None:
    """Let the server look for work of its own each 2 s, not four times a second: it is due each 15 s or more."""
    from docket import Worker  # noqa: PLC0415  for the server alone
    from prefect.server.api import background_workers  # noqa: PLC0415  the same

    pause = timedelta(seconds=2)
    rarely = partial(Worker, minimum_check_interval=pause, scheduling_resolution=pause)
    background_workers.Worker = rarely  # type: ignore[assignment, attr-defined]  # no setting says so


def sqlite() -> "type[AioSqliteConfiguration]":
    """Import the class through which Prefect's server begins its transactions on SQLite."""
    from prefect.server.database.configurations import AioSqliteConfiguration  # noqa: PLC0415  for the server alone

    return AioSqliteConfiguration
