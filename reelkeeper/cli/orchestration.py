"""Configure Prefect before it is imported, where no server is set: our own home, and timeouts for a slow machine.

Figures measured with Prefect 3.9.1: a first start with a fresh home takes 12 to 23 s on two busy cores, where its own
limit is 20 s; a recorder that writes 100 task runs at once needs a third of the CPU, and loses none at the exit.
"""

import os
from pathlib import Path

from reelkeeper import disk
from reelkeeper.disk import STATE_REMEDY, make_folder, tighten
from reelkeeper.errors import Misconfigured

HEARTBEAT_SECONDS = 30  # Prefect's shortest; a run that is silent for three of them is dead: deployments/automations.py
RUN_DAYS, EVENT_DAYS = 30, 3

# What every Prefect server of ours is told, wherever it is started, so that its database does not grow without end. By
# itself Prefect keeps every flow run for ever, and every event, most of what it writes, for a week. What happened to a
# customer's video stands in our own audit for good. The one period is read as seconds alone, the other as ISO 8601.
SERVER = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # telemetry
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # runs with their logs and artifacts
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RUN_DAYS * 86_400),
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{EVENT_DAYS}D",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": '{"prefect.flow-run.heartbeat": 21600}',  # seconds
}
_ALWAYS = SERVER | {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the UI has the logs; an error is said once, by us
}
_IN_PROCESS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # seconds; cut to whole ones, and 0 never rests
}
_STAYING = {
    "PREFECT_WORKER_QUERY_SECONDS": "3",  # between two looks for runs that are due; Prefect's default is 10
}


def prepare(state_dir: Path) -> bool:
    """Set what is not set already. Call it before anything imports Prefect. True: Prefect will start its own server."""
    disk.require(state_dir, "the disk of the state folder", STATE_REMEDY)
    wanted = dict(_ALWAYS)
    alone = not os.environ.get("PREFECT_API_URL")
    if alone:
        wanted |= _IN_PROCESS
        if secret := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):  # which the server that is started here asks for
            wanted["PREFECT_API_AUTH_STRING"] = secret
        if not os.environ.get("PREFECT_PROFILE"):  # a profile names a server of its own
            home = (state_dir / "prefect").absolute()
            tighten(make_folder(home), state_dir)  # Prefect makes one folder, and not those above it
            wanted["PREFECT_HOME"] = str(home)
    for name, value in (wanted | _logging()).items():
        os.environ.setdefault(name, value)
    return alone and not os.environ.get("PREFECT_PROFILE")


def require_server() -> None:
    """Raise Unavailable or Misconfigured where PREFECT_API_URL names a server that does not answer."""
    if url := os.environ.get("PREFECT_API_URL"):
        from reelkeeper.adapters import orchestrator

        orchestrator.require_answer(url, os.environ.get("PREFECT_API_AUTH_STRING"), os.environ.get("PREFECT_API_KEY"))


def _logging() -> dict[str, str]:
    """Configure Prefect's logs, here and in the processes that it starts, like those of this process."""
    from reelkeeper.settings import settings

    told = settings()
    if told.log_format == "text":
        return {"PREFECT_LOGGING_LEVEL": told.log_level}
    return {
        "PREFECT_LOGGING_LEVEL": told.log_level,
        "PREFECT_LOGGING_LOGGERS_REELKEEPER_LEVEL": told.log_level,
        "PREFECT_LOGGING_SETTINGS_PATH": str(Path(__file__).with_name("logging.yml")),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": told.log_level,
    }


def stay(state_dir: Path) -> bool:
    """Prepare a long-lived process that logs to its console."""
    from reelkeeper.settings import settings

    for name, value in (_STAYING | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": settings().log_level}).items():
        os.environ.setdefault(name, value)
    return prepare(state_dir)


def join_server(state_dir: Path) -> None:
    """Prepare a process that works for a server. Raises Misconfigured where none is named."""
    if stay(state_dir):
        raise Misconfigured("PREFECT_API_URL is not set: it says where Prefect's server is, e.g. http://HOST:4200/api")
