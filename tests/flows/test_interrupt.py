"""Ctrl-C or SIGTERM in a run: it ends within ten seconds, without its encoders, and gives back what it has begun."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL

from reelkeeper.operations.lifecycle import plans
from tests.clips import MakeClip
from tests.flows.scenes import Scene

PROMISED_SECONDS = 10
PATIENCE_SECONDS = 120.0


def encoders(of: int) -> list[psutil.Process]:
    """List the encodes that a process has started: not a tool that is only asked what it can do."""
    at_work = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(of).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "-crf" in child.cmdline():
                    at_work.append(child)
    return at_work


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_run_that_encodes_ends_in_time_and_gives_back_what_it_has_begun(
    scene: Scene, make_clip: MakeClip, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    clip = make_clip(size="1280x720", seconds=20, codec="libx264 -preset ultrafast -crf 4")
    for video in range(3):
        scene.video(f"v{video}", age_days=10, clip=clip)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    words = ["run", "tier_storage", "--apply", "--param", "recipe.preset=8"]
    with subprocess.Popen(
        [Path(sys.executable).parent / "reelkeeper", *words],
        env=clean | {"PREFECT_API_URL": str(PREFECT_API_URL.value())},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        try:
            until = time.monotonic() + PATIENCE_SECONDS
            while not (at_work := encoders(run.pid)) and run.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            assert at_work, run.communicate()
            os.killpg(run.pid, number)
            began = time.monotonic()
            said = run.communicate(timeout=PATIENCE_SECONDS)[1]
            took = time.monotonic() - began
        finally:
            run.kill()
    assert run.returncode == code, said
    assert took < PROMISED_SECONDS, f"{took:.1f} s: {said}"
    assert ("encoders" in said) == (number == signal.SIGINT)  # a terminal is told what it waits for
    gone, left = psutil.wait_procs(at_work, timeout=5)  # a zombie, which nobody reaps, has ended too
    assert [tool.status() for tool in left] == [psutil.STATUS_ZOMBIE] * (len(at_work) - len(gone))
    assert plans.under_way(scene.engine) is None  # its lease was given back
    assert scene.states() == {f"v{video}": "live" for video in range(3)}
    scene.world.check()
