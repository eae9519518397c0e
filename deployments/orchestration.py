"""Configure Prefect before it is imported: without a configured server, our own home and longer timeouts.

Measured with Prefect 3.9.1: a first start with a fresh home takes 12 to 23 s on two busy cores, while Prefect's limit
is 20 s; a recorder that writes 100 task runs at once needs a third of the CPU, and loses none at exit.
"""

import os
from pathlib import Path

from reelkeeper import disk
from reelkeeper.adapters.http_clients import spare_loopback
from reelkeeper.disk import STATE_REMEDY, make_folder, tighten, tighten_state
from reelkeeper.errors import Misconfigured

HEARTBEAT_SECONDS = 30  # Prefect's minimum; a run that misses three is marked as crashed by deployments/automations.py
RUN_DAYS, EVENT_DAYS = 30, 3

# Settings of every Prefect server of ours, so that its database does not grow without end. By default Prefect keeps
# flow runs forever, and events, most of what it writes, for a week. What happened to a customer's video stays in our
# own audit. One of the two periods must be given in seconds, the other in ISO 8601.
SERVER = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # telemetry
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # runs with their logs and artifacts
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RUN_DAYS * 86_400),
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{EVENT_DAYS}D",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": '{"prefect.flow-run.heartbeat": 21600}',  # seconds
}
_ALWAYS = SERVER | {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the UI has the logs; the command prints errors
}
_IN_PROCESS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # seconds; cut to whole ones, and 0 never pauses
}
# Most of what a server costs at rest is wake-ups. Prefect looks for late runs, pauses, cleanups and new schedules each
# 5 s. A worker's query for due runs costs the server 30 to 45 ms of CPU: for two pools, each 3 s, over 2 % of a core.
_STAYING = {
    # What a run holds of its deployment's limit is a lease, by default in memory. A run whose lease is gone, as after a
    # restart of the server, is ended when it would renew it.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # How long before it is due a run is given out: more than the 10 s, within 30 %, between two of these queries.
    "PREFECT_WORKER_PREFETCH_SECONDS": "15",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "15",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "60",  # slots of dead runs, which a lease holds for 300 s
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "30",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT15S",  # of automations that wait for what does not happen
}


def prepare(state_dir: Path) -> bool:
    """Set unset variables, before anything imports Prefect; return whether Prefect will start its own server."""
    disk.require(state_dir, "the disk of the state folder", STATE_REMEDY)
    spare_loopback()
    wanted = dict(_ALWAYS)
    alone = not os.environ.get("PREFECT_API_URL")
    if alone:
        wanted |= _IN_PROCESS
        if secret := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):  # required by the server that is started here
            wanted["PREFECT_API_AUTH_STRING"] = secret
        if not os.environ.get("PREFECT_PROFILE"):  # a profile names a server of its own
            home = (state_dir / "prefect").absolute()
            tighten(make_folder(home))  # Prefect creates the folder, but not its parents
            tighten_state(state_dir)
            if not os.access(home, os.W_OK):
                raise Misconfigured(f"{home} cannot be written to: look at the rights of the folder and at its disk")
            wanted["PREFECT_HOME"] = str(home)
    for name, value in (wanted | _logging()).items():
        os.environ.setdefault(name, value)
    return alone and not os.environ.get("PREFECT_PROFILE")


def require_server() -> None:
    """Raise Unavailable or Misconfigured if the server at PREFECT_API_URL does not answer."""
    if url := os.environ.get("PREFECT_API_URL"):
        from reelkeeper.adapters import orchestrator  # noqa: PLC0415  --help needs none of these

        orchestrator.require_answer(url, os.environ.get("PREFECT_API_AUTH_STRING"), os.environ.get("PREFECT_API_KEY"))


def _logging() -> dict[str, str]:
    """Configure Prefect's logs like ours, in this process and in those that it starts."""
    from reelkeeper.settings import settings  # noqa: PLC0415  as above

    configuration = settings()
    if configuration.log_format == "text":
        return {"PREFECT_LOGGING_LEVEL": configuration.log_level}
    return {
        "PREFECT_LOGGING_LEVEL": configuration.log_level,
        "PREFECT_LOGGING_LOGGERS_REELKEEPER_LEVEL": configuration.log_level,
        "PREFECT_LOGGING_SETTINGS_PATH": str(Path(__file__).with_name("logging.yml")),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": configuration.log_level,
    }


def stay(state_dir: Path) -> bool:
    """Prepare a long-running process that logs to its console."""
    from reelkeeper.settings import settings  # noqa: PLC0415  as above

    for name, value in (_STAYING | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": settings().log_level}).items():
        os.environ.setdefault(name, value)
    return prepare(state_dir)


def join_server(state_dir: Path) -> None:
    """Prepare a process that works for a Prefect server. Raises Misconfigured if none is configured."""
    if stay(state_dir):
        raise Misconfigured("PREFECT_API_URL is not set: it is the URL of Prefect's server, e.g. http://HOST:4200/api")
