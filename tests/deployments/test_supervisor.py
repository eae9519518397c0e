"""Child processes are restarted, stopped in order, and never left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from inline_snapshot import snapshot

from deployments import supervisor
from deployments.supervisor import Part, Supervisor
from deployments.up import _Last, _ports, alone
from reelkeeper.errors import LeaseLost, Misconfigured
from tests.disks import fill, small_disk
from tests.reading import as_read

FOREVER = "import time\nwhile True: time.sleep(1)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n{FOREVER}"


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def kept(told: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(os.environ, told.append)
    yield made
    made.stop(hurried=lambda: True)


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., Part]:
    def make(script: str, name: str = "server", stop_seconds: float = 30) -> Part:
        return Part(name, f"The {name}", [sys.executable, "-c", script], tmp_path / f"{name}.log", stop_seconds)

    return make


def until(holds: Callable[[], object], seconds: float = 240) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_part_that_dies_is_reported_and_restarted(
    kept: Supervisor, told: list[str], part: Callable[..., Part]
) -> None:
    server = part(FOREVER)
    kept.start(server)
    assert server.process
    first = server.process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: kept.look() or (server.is_alive and server.process and server.process.pid != first))  # type: ignore[func-returns-value]  # nothing, and then the question
    assert len(told) == 1
    assert as_read(told[0], log=server.log) == snapshot("The server ended by SIGKILL; it restarts in 1 s. See <log>")


@pytest.mark.long
def test_a_part_that_keeps_dying_is_restarted_with_growing_pauses(
    kept: Supervisor, told: list[str], part: Callable[..., Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    server = part("print('no luck'); raise SystemExit(3)")
    kept.start(server)
    until(lambda: kept.look() or len(told) >= 4)  # type: ignore[func-returns-value]  # as above
    assert as_read(told[0], log=re.compile(r"\S+\.log")) == snapshot(
        "The server ended with exit code 3; it restarts in 0 s. See <log>"
    )
    assert server.pause == pytest.approx(0.08)
    assert "no luck" in server.last_words()


def test_a_program_that_an_update_replaces_just_now_stops_no_other_part(
    kept: Supervisor, told: list[str], part: Callable[..., Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    server, program = part(FOREVER), tmp_path / "reelkeeper"
    server.argv = [str(program), *server.argv[1:]]
    kept.start(server)
    until(lambda: kept.look() or len(told) >= 3)  # type: ignore[func-returns-value]  # as above
    assert server.pause == pytest.approx(0.04)
    once = part("", "watchdog")
    once.argv = [str(program)]
    assert kept.run(once, until=lambda: False, tick=lambda: None)
    program.symlink_to(sys.executable)
    until(lambda: kept.look() or server.is_alive)  # type: ignore[func-returns-value]  # as above


def test_parts_are_stopped_the_last_first_and_a_deaf_one_is_killed(kept: Supervisor, part: Callable[..., Part]) -> None:
    server, worker = part(FOREVER), part(DEAF, "worker", stop_seconds=0.3)
    for item in (server, worker):
        kept.start(item)
    until(lambda: "deaf" in worker.last_words())
    kept.stop(["worker"])
    assert (worker.process and worker.process.returncode, server.is_alive) == (-signal.SIGKILL, True)
    kept.stop()
    assert server.process
    assert server.process.returncode == -signal.SIGTERM
    assert kept.parts == []


def test_parts_that_are_stopped_together_do_not_wait_for_each_other(
    kept: Supervisor, part: Callable[..., Part]
) -> None:
    server, deaf, prompt = part(FOREVER), part(DEAF, "worker", stop_seconds=1), part(FOREVER, "api", stop_seconds=0)
    for item in (server, deaf, prompt):
        kept.start(item)
    until(lambda: "deaf" in deaf.last_words())
    kept.stop(["worker", "api"])
    ends = [item.process.returncode for item in (deaf, prompt) if item.process]
    assert ends == [-signal.SIGKILL, -signal.SIGTERM]  # while the worker was waited for
    assert kept.parts == [server]


def test_a_second_interrupt_stops_without_waiting(kept: Supervisor, part: Callable[..., Part]) -> None:
    worker = part(DEAF, stop_seconds=600)
    kept.start(worker)
    until(lambda: "deaf" in worker.last_words())
    kept.stop(hurried=lambda: True)
    assert worker.process
    assert worker.process.returncode == -signal.SIGKILL


def test_a_part_runs_once_and_is_ended_when_it_is_not_wanted_any_more(
    kept: Supervisor, part: Callable[..., Part]
) -> None:
    assert kept.run(part("raise SystemExit(10)"), until=lambda: False, tick=lambda: time.sleep(0.05)) == 10
    left = part(FOREVER)
    assert kept.run(left, until=lambda: True, tick=lambda: None) is None
    assert not left.is_alive


def test_children_die_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
from deployments.supervisor import Part, Supervisor
kept = Supervisor(os.environ, print)
part = Part("server", "The server", [sys.executable, "-c", {FOREVER!r}], Path({str(tmp_path / "log")!r}), 1)
kept.start(part)
print(part.process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_log_does_not_grow_without_end(
    kept: Supervisor, part: Callable[..., Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG_BYTES", 1_000)
    server = part(f"print('x' * 2_000, flush=True)\n{FOREVER}")
    kept.start(server)
    until(lambda: "x" in server.last_words())
    kept.look()
    assert server.log.stat().st_size == 0
    assert server.log.with_name("server.log.1").stat().st_size == 2_001


def test_ports_are_those_asked_for_those_of_the_last_time_or_free_ones() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured) as refused:
            _ports(_Last(), port, None)
        assert as_read(refused.value, port=port) == snapshot(
            "port <port> is taken; give another --port, or leave it out for a free one"
        )
        other, another = _ports(_Last(port=port, api_port=port), None, None)
        assert port not in (other, another)
    last = _Last(port=other, api_port=another)
    assert _ports(last, None, None) == (other, another)
    assert _ports(last, port, None) == (port, another)
    assert _ports(last, another, None)[1] not in (other, another)  # the API's of the last time is the server's now
    with pytest.raises(Misconfigured, match=str(port)):
        _ports(last, port, port)


def test_one_state_folder_has_one_up(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(LeaseLost, match=rf"{tmp_path}.*\b{os.getpid()}\b"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):
        pass


def test_a_full_disk_without_room_for_an_older_log_ends_nothing(
    kept: Supervisor, part: Callable[..., Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG_BYTES", 1_000)
    server = part(FOREVER)
    kept.start(server)
    with small_disk(tmp_path / "disk", 1) as disk:
        server.log = disk / "server.log"
        server.log.write_bytes(b"a line\n" * 50_000)
        filler = fill(disk)
        kept.look()
        assert server.log.stat().st_size > 1_000
        assert server.is_alive
        filler.unlink()
        kept.look()
        assert server.log.stat().st_size == 0
        assert server.log.with_name("server.log.1").stat().st_size == 350_000
