"""A disk that is full, before or during the work, ends a command within half a minute, and says which one and where."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reelkeeper.errors import LeaseLost
from tests.disks import fill, kept_full, small_disk

WIDE = [word for name in ("", "user_") for word in ("--param", f"limits.max_{name}percent=100")]
BOUND_SECONDS = 30  # from the disk being full to the end of the command
_CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("REELKEEPER_", "PREFECT_"))}


class Deployment:
    """The command, with state and scratch on separate small disks."""

    def __init__(self, folder: Path) -> None:
        self.state, self.scratch, self.home = folder / "state", folder / "scratch", folder / "home"
        self.home.mkdir()
        self.environment = _CLEAN | {
            "REELKEEPER_STATE_DIR": str(self.state),
            "REELKEEPER_SCRATCH_DIR": str(self.scratch),
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("reelkeeper")), *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *words: str, exit_code: int = 0, within: float = 240) -> str:
        process = self.start(*words)
        try:
            said = "".join(process.communicate(timeout=within))
        finally:
            process.kill()
        assert process.returncode == exit_code, said
        return said


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with small_disk(tmp_path / "state", 200), small_disk(tmp_path / "scratch", 100):
        yield Deployment(tmp_path)


@pytest.mark.long
def test_a_full_disk_before_the_work_is_reported_at_once(deployment: Deployment, tiny_clip: Path) -> None:
    add = ("videos", "add", str(tiny_clip), "--user", "ann", "--video")
    deployment.run(*add, "v1")
    filler = fill(deployment.scratch, 1_000_000)
    said = deployment.run(*add, "v2", exit_code=1, within=BOUND_SECONDS)
    for word in (str(deployment.scratch), "tmpfs", "REELKEEPER_SCRATCH_DIR"):
        assert word in said
    filler.unlink()
    filler = fill(deployment.state, 1_000_000)
    for words in ((*add, "v3"), ("run", "tier_storage")):
        said = deployment.run(*words, exit_code=1, within=BOUND_SECONDS)
        assert "tmpfs" in said
        assert str(deployment.state) in said
        assert "REELKEEPER_STATE_DIR" in said
    filler.unlink()
    deployment.run(*add, "v3")
    assert [video["id"] for video in json.loads(deployment.run("videos", "--json"))] == ["v1", "v3"]


@pytest.mark.long
@pytest.mark.parametrize("place", ["state", pytest.param("scratch", marks=pytest.mark.soak)])
def test_a_disk_that_fills_during_a_run_ends_it_and_is_no_fault_of_a_video(
    deployment: Deployment,
    natural_clips: dict[str, Path],
    place: str,
    record_property: Callable[[str, object], None],
) -> None:
    add = ("videos", "add", str(natural_clips["bikes"]), "--user", "ann", "--video")
    for name in ("v1", "v2", "v3"):
        deployment.run(*add, name)
    today = datetime.now(UTC).date()
    with sqlite3.connect(deployment.state / "store.sqlite3") as store:  # ten days old, and watched by nobody
        store.execute("UPDATE users SET tier = 'pro'")
        store.execute("UPDATE videos SET created_at = ?", (f"{today - timedelta(days=10)} 00:00:00.000000",))
        store.executemany(
            "INSERT INTO view_days (day) VALUES (?)", [(str(today - timedelta(n)),) for n in range(1, 40)]
        )
    slow = ("--param", "recipe.codec=av1", "--param", "recipe.preset=4")
    params = (*slow, "--param", "recipe.payback.cpu_usd_per_hour=never")
    apply = ("run", "tier_storage", "--apply", *params, *WIDE)
    process = deployment.start(*apply)
    try:
        while not list(deployment.scratch.rglob("out.mp4")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        with kept_full(getattr(deployment, place)) as filler:
            began = time.monotonic()
            said = "".join(process.communicate(timeout=240))
            took = time.monotonic() - began
    finally:
        process.kill()
    assert process.returncode == 1, said
    assert str(getattr(deployment, place)) in said
    record_property("seconds from the full disk to the end", round(took, 1))
    assert took < BOUND_SECONDS, said
    filler.unlink()
    shown = json.loads(deployment.run("videos", "--json"))
    assert [(video["id"], video["state"], video["reason"]) for video in shown] == [
        (name, "live", None) for name in ("v1", "v2", "v3")
    ]
    while (again := deployment.start(*apply)).wait(240) == LeaseLost.exit_code:
        time.sleep(5)  # a store on the full disk could not give the lease back: it ends within a minute
    assert again.returncode == 0, again.communicate()
    assert {load["generation"] for load in json.loads(deployment.run("videos", "--json"))} == {2}
