"""Our settings for Prefect, read by Prefect itself in a separate process."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from deployments.orchestration import EVENT_DAYS, RUN_DAYS, SERVER, prepare
from tests.e2e.installation import bare_environment
from tests.reading import as_read

READ = """
import json
from prefect.settings import get_current_settings
server = get_current_settings().server
vacuum = server.services.db_vacuum
print(json.dumps({
    "kinds": sorted(vacuum.enabled_vacuum_types),
    "run_days": vacuum.retention_period.days,
    "event_days": server.events.retention_period.days,
    "telemetry": server.analytics_enabled,
}))
"""


@pytest.mark.long
def test_prefect_accepts_the_settings_that_limit_its_database() -> None:
    told = subprocess.run(
        [sys.executable, "-c", READ], env=os.environ | SERVER, capture_output=True, text=True, check=True, timeout=280
    )
    assert json.loads(told.stdout) == {
        "kinds": ["events", "flow_runs", "orphans"],
        "run_days": RUN_DAYS,
        "event_days": EVENT_DAYS,
        "telemetry": False,
    }


@pytest.mark.parametrize(("url", "shown"), [("", "ann:secret"), ("http://127.0.0.1:4200/api", None)])
def test_a_server_of_our_own_is_shown_the_secret_that_it_asks_for(
    url: str, shown: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_API_URL": url, "PREFECT_SERVER_API_AUTH_STRING": "ann:secret"}
    monkeypatch.setattr(os, "environ", environment)
    assert prepare(tmp_path) is (not url)
    assert environment.get("PREFECT_API_AUTH_STRING") == shown


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"https_proxy": "http://proxy:3128"}, "127.0.0.1,localhost,::1"),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "a.example,localhost"}, "a.example,localhost,127.0.0.1,::1"),
        ({"HTTP_PROXY": "http://proxy:3128", "no_proxy": "*"}, "*"),
        ({}, None),
    ],
)
def test_prefect_asks_a_server_on_this_machine_without_a_proxy(
    before: dict[str, str], after: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | before
    monkeypatch.setattr(os, "environ", environment)
    prepare(tmp_path)
    assert environment.get("no_proxy") == after
    assert environment.get("NO_PROXY", after) == after


HOLD = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from uuid import UUID
from deployments import orchestration
orchestration.stay(Path(sys.argv[1]))
from prefect.server.concurrency.lease_storage import get_concurrency_lease_storage
leases, held = get_concurrency_lease_storage(), sys.argv[2:]
if held:
    print(asyncio.run(leases.read_lease(UUID(held[0]))) is not None)
else:
    print(asyncio.run(leases.create_lease([], timedelta(minutes=5))).id)
"""


@pytest.mark.long("two processes that load Prefect's server")
def test_what_runs_hold_of_a_limit_outlasts_the_server(tmp_path: Path) -> None:
    """Prefect ends each run whose lease is gone."""

    def said(*words: str) -> str:
        command, environment = [sys.executable, "-c", HOLD, str(tmp_path), *words], bare_environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=280)
        return done.stdout.strip()

    assert said(said()) == str(True)


INTERRUPTED = """
import os, signal
from deployments.prefect_internals import start_temporary_server
start_temporary_server()
try:
    os.killpg(0, signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    import sys
    from prefect.client.orchestration import get_client
    print(get_client(sync_client=True).hello().json(), "prefect.server" in sys.modules)
"""


@pytest.mark.long
def test_a_run_that_ctrl_c_interrupts_still_has_its_server_to_tell_its_end(tmp_path: Path) -> None:
    """A terminal sends SIGINT to all processes of a command: without its server, the run did not end for minutes."""
    told = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env=without_a_server(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (told.returncode, told.stdout.strip()) == (0, "👋 False"), told.stderr


KILLED = """
import os, signal
from deployments.prefect_internals import start_temporary_server
start_temporary_server()
print("started", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_the_server_of_a_killed_run_ends_and_lets_go_of_the_pipe_of_the_caller(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED]
    environment = without_a_server(tmp_path)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        try:
            assert run.communicate(timeout=100)[0] == "started\n"  # the end of the output, of all who hold it
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL


@pytest.mark.long
def test_a_server_that_ends_before_it_answers_ends_the_run_at_once(tmp_path: Path) -> None:
    nowhere = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/none/prefect.db"}
    environment = without_a_server(tmp_path) | nowhere
    command = [sys.executable, "-c", KILLED]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert (told.returncode, told.stderr.rpartition("\n")[0].rpartition("\n")[2].partition(":")[0]) == (
        1,
        "reelkeeper.errors.OrchestratorError",
    )


def without_a_server(home: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= SERVER | {"PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "ERROR"}
    return environment | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180"}  # as the command has it


READ_ONLY = """
import ctypes, os, sys
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
state = sys.argv[1].encode()
# CLONE_NEWUSER | CLONE_NEWNS; MS_REC | MS_PRIVATE
if libc.unshare(0x10020000) or libc.mount(None, b"/", None, 0x44000, None):
    sys.exit("no namespace")
if libc.mount(state, state, None, 0x1000, None) or libc.mount(None, state, None, 0x1021, None):  # MS_BIND, read-only
    sys.exit("no mount")
from deployments.orchestration import prepare
prepare(Path(sys.argv[1]))
"""


@pytest.mark.long
def test_a_state_folder_that_cannot_be_written_is_named_before_prefect_meets_it(tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    told = subprocess.run(
        [sys.executable, "-c", READ_ONLY, tmp_path], env=variables, capture_output=True, text=True, check=False
    )
    if "no namespace" in told.stderr:
        pytest.skip("this system gives no namespace to mount in")
    assert as_read(told.stderr, only="/prefect", folder=tmp_path) == snapshot("""\
reelkeeper.errors.Misconfigured: <folder>/prefect cannot be written to: look at the rights of
  the folder and at its disk\
""")
