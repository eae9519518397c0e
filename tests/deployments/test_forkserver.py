"""A program that is forked from loaded libraries looks like one that was started: output, signals, ends, folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments import forkserver
from tests.e2e.installation import until

SAYS = """
import os, signal, sys, time
run = os.environ.get("PREFECT__FLOW_RUN_ID")
print(sys.argv[1:], os.getcwd(), run, "prefect" in sys.modules, os.getpid(), flush=True)
sys.stderr.write("also this\\n")
"""
WAITS = f"{SAYS}while True: time.sleep(0.05)"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


class Asked:
    """A client of the server, and what it has said."""

    def __init__(self, address: Path, folder: Path, script: str, *words: str, **environment: str) -> None:
        (folder / "program.py").write_text(script)
        self.process = subprocess.Popen(
            forkserver.client(str(address), str(folder / "program.py"), *words),
            cwd=folder,
            env=ENVIRONMENT | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> list[str]:
        assert self.process.stdout
        return self.process.stdout.readline().rsplit(maxsplit=4)

    def program(self) -> psutil.Process:
        return psutil.Process(int(self.line()[-1]))

    def end(self) -> int:
        return self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, "subprocess.Popen[bytes]"]]:
    with serving(tmp_path_factory.mktemp("with a long name, as state folders may have: " + 40 * "x")) as begun:
        yield begun


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Path, "subprocess.Popen[bytes]"]]:
    address = folder / "forkserver.sock"
    command = [sys.executable, "-m", "deployments.forkserver", str(address)]
    process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True)
    try:
        until(address.exists, 60, "the server listens")
        yield address, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ask(server: tuple[Path, Any], tmp_path: Path) -> Iterator[Callable[..., Asked]]:
    asked: list[Asked] = []

    def one(script: str, *words: str, **environment: str) -> Asked:
        asked.append(Asked(server[0], tmp_path, script, *words, **environment))
        return asked[-1]

    yield one
    for each in asked:
        each.process.kill()
        each.process.communicate()


def gone(program: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        program.wait(60)
    return not program.is_running() or program.status() == psutil.STATUS_ZOMBIE


def test_it_has_its_words_folder_environment_and_output_and_everything_is_loaded(
    ask: Callable[..., Asked], tmp_path: Path
) -> None:
    asked = ask(f"{SAYS}raise SystemExit(7)", "a b", PREFECT__FLOW_RUN_ID="r")
    *said, pid = asked.line()
    assert said == ["['a b']", str(tmp_path), "r", "True"]
    assert int(pid) != asked.process.pid
    assert asked.process.communicate()[1] == "also this\n"
    assert asked.end() == 7


def test_what_it_opens_is_its_own(ask: Callable[..., Asked]) -> None:
    """Objects of the server closed what had their numbers in the program by then."""
    asked = ask(
        "import gc, os\nopened = [os.dup(0) for _ in range(40)]\ngc.collect()\nfor each in opened: os.close(each)"
    )
    assert (asked.end(), asked.process.communicate()) == (0, ("", ""))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_it_and_it_ends_as_it_would(ask: Callable[..., Asked], number: signal.Signals) -> None:
    asked = ask(f"import signal\nsignal.signal({number.value}, lambda *_: sys.exit(5)){WAITS}")
    program = asked.program()
    asked.process.send_signal(number)
    assert (asked.end(), gone(program)) == (5, True)
    asked = ask(f"import signal\nsignal.signal({number.value}, signal.SIG_DFL){WAITS}")
    program = asked.program()
    asked.process.send_signal(number)
    assert (asked.end(), gone(program)) == (-number, True)


@pytest.mark.parametrize("action", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_signal_that_comes_as_it_begins_reaches_it(tmp_path: Path, action: signal.Handlers) -> None:
    """Also where the client was started with SIGINT ignored, as `nohup` and shells in the background do."""
    with serving(tmp_path) as (address, server):
        server.send_signal(signal.SIGSTOP)
        inherited = signal.signal(signal.SIGINT, action)
        asked = Asked(address, tmp_path, f"import signal\nsignal.signal(2, lambda *_: sys.exit(5)){WAITS}")
        signal.signal(signal.SIGINT, inherited)
        client = psutil.Process(asked.process.pid)
        until(lambda: len(client.net_connections("unix")) > 2, 60, "it has a socket to ask by")
        time.sleep(0.3)
        client.suspend()
        server.send_signal(signal.SIGCONT)
        asked.line()
        client.send_signal(signal.SIGINT)
        client.resume()
        assert asked.end() == 5
        asked.process.communicate()


def test_the_signal_to_close_ends_nothing_that_does_not_listen_yet(ask: Callable[..., Asked]) -> None:
    asked = ask(WAITS)
    asked.line()
    asked.process.send_signal(signal.SIGUSR2)
    with pytest.raises(subprocess.TimeoutExpired):
        asked.process.wait(1)


def test_it_is_killed_with_its_client_and_seen_to_be_killed(ask: Callable[..., Asked]) -> None:
    asked = ask(WAITS)
    program = asked.program()
    asked.process.kill()
    assert gone(program)
    asked = ask(WAITS)
    program = asked.program()
    program.kill()
    assert asked.end() == -signal.SIGKILL


def test_another_environment_is_that_of_a_process_of_its_own(ask: Callable[..., Asked]) -> None:
    asked = ask(SAYS, REELKEEPER_BUCKET="another")
    *_, is_loaded, pid = asked.line()
    assert (is_loaded, int(pid)) == ("False", asked.process.pid)
    assert asked.end() == 0


def test_what_is_killed_at_the_same_moment_ends_no_other(
    ask: Callable[..., Asked], server: tuple[Path, "subprocess.Popen[bytes]"]
) -> None:
    """A server that is woken for both ends of a program has closed one of them as it comes to the other."""
    other = ask(WAITS)
    bystander = other.program()
    asked = [ask(WAITS) for _ in range(6)]
    programs = [each.program() for each in asked]
    psutil.Process(server[1].pid).suspend()
    for each, program in zip(asked, programs, strict=True):
        program.kill()
        each.process.kill()
    unread = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    unread.connect(forkserver.short(str(server[0])))
    script = f"import os\nopen('begun', 'w').write(str(os.getpid()))\n{WAITS}"
    (server[0].parent / "program.py").write_text(script)
    request = [["program.py"], str(server[0].parent), ENVIRONMENT]
    with Path(os.devnull).open("r+b") as nothing:
        socket.send_fds(unread, [json.dumps(request).encode()], [nothing.fileno()] * 3)
    psutil.Process(server[1].pid).resume()
    begun = server[0].parent / "begun"
    until(lambda: begun.exists() and begun.read_text(), 60, "its program begins")
    started = psutil.Process(int(begun.read_text()))
    unread.close()  # as one that is killed before it reads that its program has begun
    assert gone(started)
    assert all(map(gone, programs))
    assert server[1].poll() is None
    assert bystander.is_running()
    *_, is_loaded, _pid = ask(SAYS).line()
    assert is_loaded == "True"


def test_the_server_has_no_thread_no_open_file_and_no_settings_that_programs_would_share(
    ask: Callable[..., Asked], server: tuple[Path, "subprocess.Popen[bytes]"]
) -> None:
    asked = ask("from reelkeeper.settings import settings\nprint(settings.cache_info().currsize)")
    assert asked.process.communicate()[0] == "0\n"
    process = psutil.Process(server[1].pid)
    assert (process.num_threads(), process.open_files(), process.net_connections("inet")) == (1, [], [])


def test_without_a_server_it_starts_by_itself_and_a_server_that_dies_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as (address, server):
        asked = Asked(address, tmp_path, WAITS)
        program = asked.program()
        server.kill()
        server.wait()
        assert (asked.end(), gone(program)) == (-signal.SIGKILL, True)
        asked.process.communicate()
        with Asked(address, tmp_path, SAYS).process as alone:
            assert alone.stdout
            *_, is_loaded, pid = alone.stdout.readline().rsplit(maxsplit=4)
            assert (is_loaded, int(pid), alone.wait(60)) == ("False", alone.pid, 0)
