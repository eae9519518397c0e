"""Small file systems that tests can fill."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BLOCK_BYTES = 1 << 16
_TRIES = 100


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size at `folder`; the test is skipped where mounting is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount: list[str | Path] = [_program("mount"), "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([_program("umount"), "--lazy", folder], check=True)


def _program(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"there is no {name} here")


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """Fill the disk except `leave_bytes`; return the file that takes the space."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for _ in range(_TRIES):  # none of it is taken where somebody else has just taken a part
            room = os.statvfs(folder)
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - leave_bytes))
                break
        with suppress(OSError):
            while not leave_bytes:
                file.seek(0, os.SEEK_END)
                file.write(b"x" * BLOCK_BYTES)
    return filler


@contextmanager
def kept_full(folder: Path) -> Iterator[Path]:
    """Fill the disk, also with space that others free, such as a journal; yield the file that takes the space."""
    filler, over = fill(folder), threading.Event()

    def refill() -> None:
        while not over.wait(0.02):
            fill(folder)

    thread = threading.Thread(target=refill, daemon=True)
    thread.start()
    try:
        yield filler
    finally:
        over.set()
        thread.join()
