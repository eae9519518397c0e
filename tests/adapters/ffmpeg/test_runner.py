"""A tool gets only what it needs: no secrets, no network, no other files, and bounded resources."""

import multiprocessing
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.ffmpeg import process, tools
from reelkeeper.adapters.ffmpeg.runner import Finished, Progress, run
from reelkeeper.adapters.ffmpeg.sandbox import Bounds, Walls
from reelkeeper.errors import DiskFull, MediaError, MediaTimeout, NotAVideo
from tests.marks import marked

ENDLESS = ["-f", "lavfi", "-i", "testsrc2=s=640x360", "-c:v", "libx264", "-f", "null", "-"]
REPORTING = ["-nostats", "-progress", "pipe:1", "-stats_period", "0.1"]
OPEN = Walls(network=False, files=False, calls=False)


def shell(script: str, scratch_dir: Path, walls: Walls = OPEN, wall_seconds: float = 60) -> Finished:
    return run(["/bin/sh", "-c", script], scratch_dir=scratch_dir, bounds=Bounds(wall_seconds), walls=walls)


LONG = {"wall_seconds": 280}


def ffmpeg_children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "ffmpeg" in p.name()]


def gone(pid: int, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not psutil.pid_exists(pid)


def test_a_tool_past_its_wall_limit_is_ended(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(MediaTimeout) as refused:
        run([tools().ffmpeg, *ENDLESS], scratch_dir=tmp_path, bounds=Bounds(wall_seconds=1), walls=tools().walls)
    assert marked(refused.value, TOOL=Path(tools().ffmpeg).name) == snapshot("TOOL ran longer than its limit of 1 s")
    assert time.monotonic() - started < 60
    assert not ffmpeg_children()


def test_a_tool_that_stalls_is_ended(tmp_path: Path) -> None:
    with pytest.raises(MediaTimeout) as refused:
        run(
            ["/bin/sh", "-c", "echo frame=1; echo progress=continue; exec sleep 900"],
            scratch_dir=tmp_path,
            bounds=Bounds(stall_seconds=1),
            walls=OPEN,
            watch=lambda _: False,
        )
    assert marked(refused.value) == snapshot("sh made no progress for 1 s")


def test_a_tool_that_ignores_the_first_signal_is_killed(tmp_path: Path) -> None:
    shell("true", tmp_path)
    others = set(psutil.Process().children(recursive=True))  # the launcher, and servers that other tests stand on
    with pytest.raises(MediaTimeout):
        shell("trap '' TERM; while :; do sleep 0.1; done", tmp_path, wall_seconds=1)
    assert set(psutil.Process().children(recursive=True)) <= others


def test_an_error_of_the_watcher_ends_the_tool_and_is_raised(tmp_path: Path) -> None:
    def lost(progress: Progress) -> bool:
        if progress.frames:
            raise InterruptedError("the lease is lost")
        return False

    with pytest.raises(InterruptedError, match="lease"):
        run(
            [tools().ffmpeg, *REPORTING, *ENDLESS],
            scratch_dir=tmp_path,
            bounds=Bounds(),
            walls=tools().walls,
            watch=lost,
        )
    assert not ffmpeg_children()


def test_a_watcher_may_end_the_tool_early(tmp_path: Path) -> None:
    argv = [tools().ffmpeg, *REPORTING, *ENDLESS]
    ended = run(argv, scratch_dir=tmp_path, bounds=Bounds(), walls=tools().walls, watch=lambda p: p.frames > 0)
    assert ended.stopped
    assert ended.cpu_seconds > 0


def test_a_flood_on_stderr_does_not_block(tmp_path: Path) -> None:
    ended = shell("i=0; while [ $i -lt 20000 ]; do echo 'a complaint of some length' >&2; i=$((i+1)); done", tmp_path)
    assert ended.returncode == 0
    assert len(ended.complaints) <= 4096


def test_output_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAVideo, match="MiB"):
        shell("exec head -c 20000000 /dev/zero", tmp_path)


def test_no_secret_reaches_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_S3_SECRET_ACCESS_KEY", "canary-8d1f")
    assert b"canary-8d1f" not in shell("env", tmp_path).output


def test_a_tool_has_limits_of_the_kernel(tmp_path: Path) -> None:
    limits = shell("ulimit -v; ulimit -c; ulimit -n; ulimit -t; ulimit -f; nice", tmp_path).output.split()
    assert limits[:4] == [b"4194304", b"0", b"64", b"121"]  # two cores, for the 60 s of a wall limit and one more
    assert int(limits[4]) * 512 == Bounds().file_bytes
    assert int(limits[5]) == min(19, os.nice(0) + 10)


@pytest.mark.skipif(
    os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="nothing here may dump its core"
)
def test_a_tool_dumps_no_core_where_others_do(tmp_path: Path) -> None:
    script = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
        from pathlib import Path
        from reelkeeper.adapters.ffmpeg.runner import run
        from reelkeeper.adapters.ffmpeg.sandbox import Bounds, Walls
        scratch_dir, walls = Path({str(tmp_path)!r}), Walls(False, False, False)
        print(run(["/bin/sh", "-c", "ulimit -c"], scratch_dir=scratch_dir, bounds=Bounds(), walls=walls).output)
    """
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True)
    assert said.stdout == "b'0\\n'\n"


def test_a_tool_that_wants_more_memory_than_its_limit_fails(tmp_path: Path) -> None:
    bounds = Bounds(memory_bytes=300 << 20)
    argv = [tools().ffmpeg, "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=1280x720:d=1"]
    ended = run(
        [*argv, "-c:v", "libsvtav1", "-f", "null", "-"], scratch_dir=tmp_path, bounds=bounds, walls=tools().walls
    )
    assert ended.returncode != 0


@pytest.mark.parametrize("tool", ["echo $$ > pid; exec sleep 90", "sleep 90 & echo $! > pid; wait"])
def test_a_tool_dies_with_its_parent_and_so_does_what_it_has_started(tmp_path: Path, tool: str) -> None:
    script = f"""
        from pathlib import Path
        from reelkeeper.adapters.ffmpeg.runner import run
        from reelkeeper.adapters.ffmpeg.sandbox import Bounds, Walls
        run(["/bin/sh", "-c", {tool!r}], scratch_dir=Path({str(tmp_path)!r}), bounds=Bounds(),
            walls=Walls(False, False, False))
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)]) as parent:
        pid_file, deadline = tmp_path / "pid", time.monotonic() + 240
        while not (pid_file.exists() and pid_file.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not gone(int(pid_file.read_text()), seconds=0)
        parent.send_signal(signal.SIGKILL)
    assert gone(int(pid_file.read_text()))


def test_child_processes_of_a_tool_end_with_it(tmp_path: Path) -> None:
    child = shell("sleep 90 >/dev/null 2>&1 & echo $!", tmp_path).output
    assert gone(int(child))


def test_two_tools_at_once_do_not_wait_for_each_other(tmp_path: Path) -> None:
    slow = threading.Thread(target=shell, args=("until [ -e done ]; do sleep 0.2; done", tmp_path), kwargs=LONG)
    slow.start()
    for number in range(10):
        assert shell(f"exit {number}", tmp_path).returncode == number
    assert slow.is_alive()  # it ends only now
    (tmp_path / "done").touch()
    slow.join()


def launchers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if any(part.endswith("launcher.py") for part in p.cmdline())]


@pytest.mark.long
def test_when_the_launcher_is_killed_its_tools_end_and_the_next_call_has_a_new_one(tmp_path: Path) -> None:
    shell("true", tmp_path)
    (launcher,) = launchers()
    killer = threading.Timer(0.3, launcher.kill)
    killer.start()
    with pytest.raises(MediaError) as refused:
        shell("echo $$ > pid; exec sleep 900", tmp_path)
    assert marked(refused.value) == snapshot("sh: the program that starts media tools has ended, and this one with it")
    assert gone(int((tmp_path / "pid").read_text()))
    assert shell("echo well", tmp_path).output == b"well\n"
    assert len(launchers()) == 1


def test_a_tool_does_not_outlive_its_launcher(tmp_path: Path) -> None:
    shell("true", tmp_path)
    (launcher,) = launchers()
    file = tmp_path / "pid"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(shell, "echo $$ > pid; exec sleep 25", tmp_path)
        while not (file.exists() and file.read_text().strip()):
            time.sleep(0.02)
        launcher.kill()
        assert gone(int(file.read_text()), seconds=15)
        assert isinstance(asked.exception(timeout=60), MediaError)


def test_the_launcher_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_S3_SECRET_ACCESS_KEY", "canary-8d1f")
    shell("true", tmp_path)
    (launcher,) = launchers()
    assert "REELKEEPER_S3_SECRET_ACCESS_KEY" not in launcher.environ()
    assert len(list(Path(f"/proc/{launcher.pid}/fd").iterdir())) < 12


def test_a_forked_process_has_a_launcher_of_its_own(tmp_path: Path) -> None:
    shell("true", tmp_path)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert pool.submit(shell, "exit 3", tmp_path).result().returncode == 3
    assert shell("exit 4", tmp_path).returncode == 4


def test_a_tool_that_cannot_be_started_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        run(["/nonexistent/ffmpeg"], scratch_dir=tmp_path, bounds=Bounds(), walls=OPEN)


def test_the_network_is_out_of_reach(tmp_path: Path) -> None:
    """Even for an ffmpeg that is told to fetch a URL: what a taken-over decoder could try."""
    if not any(tools().walls):
        pytest.skip("this kernel grants neither a network namespace nor Landlock")
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        listener = threading.Thread(target=lambda: _count(server, calls))
        listener.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        argv = [tools().ffmpeg, "-v", "error", "-i", url, "-f", "null", "-"]
        ended = run(argv, scratch_dir=tmp_path, bounds=Bounds(wall_seconds=120), walls=tools().walls)
        listener.join()
    assert ended.returncode != 0
    assert not calls


def _count(server: socket.socket, calls: list[object]) -> None:
    for _ in range(5):
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        calls.append(connection)
        connection.close()


def test_other_files_are_out_of_reach(tmp_path: Path) -> None:
    if not tools().walls.files:
        pytest.skip("this kernel has no Landlock")
    scratch_dir, other = tmp_path / "scratch", tmp_path / "secret.txt"
    scratch_dir.mkdir()
    other.write_text("file 'in.mp4'\n")
    argv = [tools().ffmpeg, "-v", "error", "-f", "data", "-i", str(other), "-map", "0", "-f", "null", "-"]
    ended = run(argv, scratch_dir=scratch_dir, bounds=Bounds(), walls=tools().walls)
    assert "Permission denied" in ended.complaints
    environment = run(
        [tools().ffmpeg, "-v", "error", "-f", "data", "-i", f"/proc/{os.getpid()}/environ", "-f", "null", "-"],
        scratch_dir=scratch_dir,
        bounds=Bounds(),
        walls=tools().walls,
    )
    assert "Permission denied" in environment.complaints


@pytest.mark.parametrize(
    ("complaints", "said"),
    [
        (
            "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55d1] moov atom not found\nfile:/tmp/x/in.mov: Invalid data found",
            (
                snapshot(
                    "it has no index: it is truncated, or not a video (encode, exit 183: moov atom not found; Invalid data found)"
                )
            ),
        ),
        (
            (
                "[in#0/mov @ 0x1] corrupt input packet in stream 0\n[vist#0:0/h264 @ 0x2] [dec:h264 @ 0x3] Error\n"
                "[in#0/mov @ 0x1] Terminating thread with return code -1094995529 (Invalid data found)"
            ),
            snapshot("it is truncated or damaged (encode, exit 183: corrupt input packet in stream 0; Error)"),
        ),
        ("Unknown encoder", snapshot("ffmpeg cannot process it (encode, exit 183: Unknown encoder)")),
        ("", snapshot("ffmpeg cannot process it (encode, exit 183: nothing on stderr)")),
    ],
)
def test_a_refusal_explains_the_problem_and_quotes_ffmpeg(complaints: str, said: str) -> None:
    with pytest.raises(NotAVideo) as raised:
        Finished(183, b"", complaints, 0, 0, Path()).check("encode")
    assert str(raised.value) == said


def test_a_tools_message_about_a_full_disk_is_recognised() -> None:
    with pytest.raises(DiskFull):
        Finished(228, b"", "No space left on device", 0, 0, Path()).check("encode")


def test_a_long_complaint_is_cut_between_words() -> None:
    with pytest.raises(NotAVideo) as raised:
        Finished(1, b"", "word " * 200, 0, 0, Path()).check("encode")
    assert re.sub("(word )+", "WORDS ", str(raised.value)) == snapshot(
        "ffmpeg cannot process it (encode, exit 1: WORDS ...)"
    )
    assert len(str(raised.value)) < 260


@pytest.mark.parametrize(
    ("ended", "error"),
    [
        (Finished(-signal.SIGSEGV, b"", "", 0, 0, Path()), NotAVideo),
        (Finished(183, b"", "Invalid data found", 0, 0, Path()), NotAVideo),
        (Finished(0, b"", "error while decoding MB 3 4", 0, 0, Path()), NotAVideo),
        (Finished(-signal.SIGKILL, b"", "", 0, 0, Path()), MediaError),
    ],
)
def test_a_file_is_blamed_for_good_and_the_machine_only_for_now(ended: Finished, error: type[Exception]) -> None:
    with pytest.raises(MediaError) as raised:
        ended.check("encode")
    assert type(raised.value) is error


def test_a_launcher_that_is_suspended_does_not_hold_up_the_end_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_LEAVE_SECONDS", 0.5)
    shell("true", tmp_path)
    (launcher,) = launchers()
    launcher.suspend()
    process._LAUNCHER.leave()
    assert launchers() == []
