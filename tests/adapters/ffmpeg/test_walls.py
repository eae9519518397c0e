"""A program in the sandbox tries what an exploited decoder could try, and is refused.

Each attempt is also made without the wall, where it must succeed: a refusal for another reason would prove nothing.
"""

import os
import platform
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.ffmpeg import landlock, seccomp, tools
from reelkeeper.adapters.ffmpeg.runner import Finished, run
from reelkeeper.adapters.ffmpeg.sandbox import Bounds, Walls
from reelkeeper.errors import NotAVideo

OPEN = Walls(network=False, files=False, calls=False)
FILES, CALLS = OPEN._replace(files=True), OPEN._replace(calls=True)
PYTHON = os.path.realpath(sys.executable)


def attempt(code: str, scratch_dir: Path, walls: Walls) -> Finished:
    """Run Python code as the media tool; it may read its own library, which a link in the folder points at."""
    if not (scratch_dir / "python").exists():
        (scratch_dir / "python").symlink_to(sys.base_prefix)
    argv = [PYTHON, "-I", "-S", "-c", textwrap.dedent(code)]
    return run(argv, scratch_dir=scratch_dir, bounds=Bounds(wall_seconds=20), walls=walls)


@dataclass(frozen=True)
class Victims:
    """Targets that must not be reachable: a listening socket, a process, a file, and an abstract socket."""

    socket_path: Path
    pid: int
    file: Path
    abstract: str


@pytest.fixture
def scratch_dir(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[Victims]:
    path, file, abstract = tmp_path / "s", tmp_path / "ours.txt", f"reelkeeper-test-{os.getpid()}"
    file.write_text("ours")
    with (
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as hidden,
        subprocess.Popen(["/bin/sleep", "60"]) as process,
    ):
        server.bind(str(path))
        server.listen()
        hidden.bind(f"\0{abstract}")
        hidden.listen()
        yield Victims(path, process.pid, file, abstract)
        process.kill()


ATTEMPTS = {
    "a socket by path": "import socket; socket.socket(socket.AF_UNIX).connect('{v.socket_path}')",
    "an abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect('\\0{v.abstract}')",
    "a socket of the network": "import socket; socket.socket()",
    "a pair of sockets": "import socket; socket.socketpair()",
    "a signal": "import os; os.kill({v.pid}, 0)",
    "a signal by descriptor": "import os, signal; signal.pidfd_send_signal(os.pidfd_open({v.pid}), 0)",
    "a signal when a pipe is ready": "import fcntl, os; fcntl.fcntl(os.pipe()[0], 8, {v.pid})",
    "limits of another process": "import resource as r; r.prlimit({v.pid}, r.RLIMIT_CPU, (1, 1))",
    "another process's turn": "import os; os.setpriority(os.PRIO_PROCESS, {v.pid}, 19)",
    "another process's cores": "import os; os.sched_setaffinity({v.pid}, os.sched_getaffinity(0))",
    "a fork": "import os; os.fork() or os._exit(0)",
    "a program beside it": "import os; os.waitpid(os.posix_spawn('/bin/true', ['true'], {{}}), 0)",
    "the rights of a file": "import os; os.chmod('{v.file}', 0o666)",
    "the times of a file": "import os; os.utime('{v.file}')",
    "shared memory": (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.shmget(0, 4096, 0o1600) >= 0 "
        "or (_ for _ in ()).throw(OSError(ctypes.get_errno(), 'x'))"
    ),
}


@pytest.mark.parametrize("what", ATTEMPTS)
def test_no_system_call_reaches_beyond_the_tool(scratch_dir: Path, victims: Victims, what: str) -> None:
    if not seccomp.FILTER:
        pytest.skip("no filter is known for this kind of processor")
    code = ATTEMPTS[what].format(v=victims)
    control = attempt(code, scratch_dir, OPEN)
    assert control.returncode == 0, control.complaints
    refused = attempt(code, scratch_dir, CALLS)
    assert refused.returncode == 1
    assert any(word in refused.complaints for word in ("PermissionError", "[Errno 38]", "[Errno 1]")), refused


@pytest.mark.skipif(not seccomp.FILTER, reason="no filter is known for this kind of processor")
def test_a_device_cannot_be_made(scratch_dir: Path) -> None:
    """Which root may, and could then read the disk by: the folder of the tool is its own otherwise."""
    code = "import os, stat; os.mknod('device', stat.S_IFCHR | 0o600, os.makedev(1, 7))"  # /dev/full
    if os.geteuid() == 0:
        assert attempt(code, scratch_dir, OPEN).returncode == 0
        (scratch_dir / "device").unlink()
    assert "PermissionError" in attempt(code, scratch_dir, CALLS).complaints


@pytest.mark.skipif(not seccomp.FILTER, reason="no filter is known for this kind of processor")
def test_threads_work(scratch_dir: Path) -> None:
    code = "import threading; t = threading.Thread(target=print, args=['well']); t.start(); t.join()"
    assert attempt(code, scratch_dir, CALLS).output == b"well\n"


def test_a_tool_that_starts_threads_without_end_is_killed(scratch_dir: Path) -> None:
    code = """
        import threading
        threading.stack_size(32768)
        gate = threading.Event()
        for _ in range({count}):
            threading.Thread(target=gate.wait, daemon=True).start()
        print("started", flush=True)
        import time; time.sleep({seconds})
        gate.set()
    """
    well = attempt(code.format(count=200, seconds=1.5), scratch_dir, OPEN)
    assert (well.returncode, well.output) == (0, b"started\n")
    with pytest.raises(NotAVideo, match="256"):
        attempt(code.format(count=300, seconds=20), scratch_dir, OPEN)


@pytest.mark.skipif(landlock.version() < 6, reason="scopes came with version 6 of Landlock")
def test_landlock_alone_keeps_signals_and_abstract_sockets_in(scratch_dir: Path, victims: Victims) -> None:
    for what in ("a signal", "an abstract socket"):
        ended = attempt(ATTEMPTS[what].format(v=victims), scratch_dir, FILES)
        assert "PermissionError" in ended.complaints, what


@pytest.mark.parametrize("wall", ["network", "files"])
def test_each_wall_alone_keeps_the_network_out(scratch_dir: Path, wall: str) -> None:
    """That no socket can be made is a third, and stands in front of these two."""
    granted = {"network": tools().walls.network, "files": landlock.version() >= 4}  # since then it knows of TCP
    if not granted[wall]:
        pytest.skip("this kernel does not grant it")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection({server.getsockname()}, 5)"
        assert attempt(code, scratch_dir, OPEN).returncode == 0
        ended = attempt(code, scratch_dir, OPEN._replace(**{wall: True}))
    assert {"network": "Network is unreachable", "files": "PermissionError"}[wall] in ended.complaints


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_the_tool_cannot_execute_another_program(scratch_dir: Path) -> None:
    """Programs lie among the libraries too, and a tool can write one into its folder."""
    code = """
        import os, shutil
        shutil.copy({source!r}, "copy") if {copied} else None
        os.execv({target!r}, ["true"])
    """
    for copied, target in ((False, "/bin/true"), (True, str(scratch_dir / "copy"))):
        source = PYTHON if copied else ""
        argued = code.format(source=source, copied=copied, target=target)
        if not copied:
            assert attempt(argued, scratch_dir, OPEN).returncode == 0
        assert "PermissionError" in attempt(argued, scratch_dir, FILES).complaints


@pytest.mark.skipif(not seccomp.FILTER, reason="no filter is known for this kind of processor")
def test_system_calls_of_another_kind_end_the_tool(scratch_dir: Path) -> None:
    """The numbers of 32-bit and x32 calls mean others."""
    x32 = "import ctypes; r = ctypes.CDLL(None, use_errno=True).syscall(0x40000000 + 41, 1, 1, 0); print(r)"
    assert attempt(x32, scratch_dir, CALLS).output == b"-1\n"


def test_the_risk_of_a_missing_sandbox_layer_is_reported() -> None:
    whole = Walls(network=True, files=True, calls=True)
    assert {*whole.reached(), *whole._replace(network=False).reached()} == set()  # it can make no socket
    risks = [list(walls.reached()) for walls in (FILES._replace(network=True), CALLS, OPEN)]
    assert risks == snapshot(
        [
            ["Unix sockets", "other processes"],
            ["other files"],
            ["the network", "other files", "Unix sockets", "other processes"],
        ]
    )


def test_the_kernels_sandbox_features_are_detected() -> None:
    assert tools().walls.calls == (seccomp.FILTER is not None)
    assert tools().walls.files == bool(landlock.version())


# A kernel without a wall, really: a filter around the whole process that answers as a kernel does that lacks the calls.
_WITHOUT = """
    import struct
    from reelkeeper.adapters.ffmpeg import launcher, seccomp, tools
    from reelkeeper.errors import ToolMissing
    column, _ = seccomp._PROCESSORS[{machine!r}]
    numbers = {{"network": seccomp._REFUSED["unshare"][column], "files": 444}}  # landlock_create_ruleset
    program = [(0x20, 0, 0, 0)]
    for wall in {lacking!r}:
        if wall == "calls":
            seccomp.FILTER = None
        else:
            program += [(0x15, 0, 1, numbers[wall]), (0x06, 0, 0, 0x50000 | 38)]
    program += [(0x06, 0, 0, 0x7FFF0000)]
    launcher._checked(launcher._LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")
    launcher._restrict_calls(b"".join(struct.pack("=HBBI", *one) for one in program))
    try:
        print(tools().walls)
    except ToolMissing as missing:
        print(missing)
"""


@pytest.mark.skipif(not seccomp.FILTER, reason="no filter is known for this kind of processor")
@pytest.mark.parametrize(
    ("lacking", "setting", "said"),
    [
        ((), "REQUIRE_FILE_ISOLATION", "Walls("),
        (("files",), "REQUIRE_FILE_ISOLATION", "REQUIRE_FILE_ISOLATION"),
        (("files",), "REQUIRE_NETWORK_ISOLATION", "files=False"),
        (("network",), "REQUIRE_NETWORK_ISOLATION", "network=False"),  # no socket can be made
        (("network", "calls"), "REQUIRE_NETWORK_ISOLATION", "seccomp"),
    ],
)
def test_media_is_not_opened_where_a_wall_that_is_required_is_missing(
    lacking: tuple[str, ...], setting: str, said: str
) -> None:
    script = _WITHOUT.format(machine=platform.machine(), lacking=lacking)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {f"REELKEEPER_{setting}": "true"},
    )
    assert said in done.stdout
