"""Isolate the demo: its own folder, its own settings, its own Prefect, and nothing else of this machine.

It must never reach a real bucket, store or Prefect server, whatever is set in the environment, in `.env` or in a
Prefect profile: so it drops all settings from this process, and works in its folder, which has none of those files.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments import orchestration
from reelkeeper.errors import Misconfigured
from reelkeeper.settings import settings

MARK = ".reelkeeper-demo"  # a folder that holds it may be emptied
_KEPT_ALWAYS = {"REELKEEPER_FFMPEG", "REELKEEPER_FFPROBE"}  # programs of this machine
_SLOW = {MARK, "clips", "prefect"}  # slow to make again, and the same each time


def prepare(folder: Path, *, fresh: bool) -> Path:
    """Empty or create the demo's folder, and point this process at it. Return its absolute path.

    Raises Misconfigured for a folder that holds anything and was not made by a demo.
    """
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise Misconfigured(f"{folder} is not empty and was not made by a demo; give another --dir")
    for old in folder.iterdir() if folder.exists() else ():
        if fresh or old.name not in _SLOW:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("Made by `reelkeeper demo`, which empties this folder when it runs again.\n")
    _isolate(folder)
    return folder


def _isolate(folder: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("REELKEEPER_", "PREFECT_")):
            value = os.environ.pop(name)
            if name in _KEPT_ALWAYS:
                os.environ[name] = str(Path(value).absolute())
    os.environ["REELKEEPER_STATE_DIR"] = str(folder)
    orchestration.prepare(folder)
    os.chdir(folder)
    settings.cache_clear()


@contextmanager
def orchestrated() -> Iterator[None]:
    """Run flows within the block, on a Prefect server that ends with the thread that enters it, without heartbeats."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: PLC0415  reads the environment that was just set

    from deployments.prefect_internals import start_temporary_server  # noqa: PLC0415  the same

    start_temporary_server()
    # Heartbeats serve to find dead workers; here they would only make each flow take whole seconds.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
