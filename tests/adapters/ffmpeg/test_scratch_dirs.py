"""Scratch folders of killed processes are removed; those in use, new, or of other users stay."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reelkeeper.adapters.ffmpeg.intake import scratch_dir, sweep_scratch_dirs

AT_WORK = """
import sys, time
from pathlib import Path
from reelkeeper.adapters.ffmpeg.intake import scratch_dir
with scratch_dir(Path(sys.argv[1])) as work:
    (work / "source.mp4").write_bytes(b"x")
    print(work, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder, and a system's folder of this test's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "system"))
    for name in ("scratch", "system"):
        (tmp_path / name).mkdir()
    return tmp_path / "scratch"


def aged(folder: Path) -> Path:
    long_ago = time.time() - 7200
    os.utime(folder, (long_ago, long_ago))
    return folder


@pytest.mark.long
def test_a_killed_process_leaves_a_folder_that_is_removed_once_it_is_old(scratch: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", AT_WORK, str(scratch)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        left = Path(child.stdout.readline().strip())
        assert sweep_scratch_dirs(scratch, older_than_seconds=0) == 0, "it is at work"
        child.send_signal(signal.SIGKILL)
    assert sweep_scratch_dirs(scratch) == 0, "it is young"
    aged(left)
    assert sweep_scratch_dirs(scratch) == 1
    assert not left.exists()


def test_a_folder_in_use_stays_however_old(scratch: Path) -> None:
    with scratch_dir(scratch) as here, scratch_dir() as there:
        aged(here), aged(there)
        assert sweep_scratch_dirs(scratch) == 0
        assert here.exists()
        assert there.exists()
    assert list(scratch.iterdir()) == []


def test_other_folders_are_not_touched(scratch: Path) -> None:
    other, file, link = scratch / "reelkeeper-s3", scratch / "reelkeeper-desk-file", scratch / "reelkeeper-desk-link"
    other.mkdir()
    file.touch()
    link.symlink_to(other)
    aged(other), aged(file)
    assert sweep_scratch_dirs(scratch, older_than_seconds=-1) == 0
    assert {other, file, link} <= set(scratch.iterdir())
    assert sweep_scratch_dirs(scratch / "missing") == 0
