"""Folders and files that no other user of this machine may read: prompts, customers' videos and keys lie in them.

The mode is given when they are made, so no umask makes it wider, and taken from what an earlier version made wider.
"""

import contextlib
import logging
import os
import stat
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_log = logging.getLogger(__name__)


def make_folder(path: Path) -> Path:
    """Make `path`, and the folders above it that are missing, for their owner alone. What exists stays as it is."""
    for folder in reversed([path, *path.parents]):
        # guard files.folder: other users of the machine read prompts and videos
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
    return path


def make_file(path: Path) -> None:
    """Make the empty file `path` for its owner alone, unless it exists: then it is not even opened."""
    with contextlib.suppress(FileExistsError):
        # guard files.file: other users of the machine read the store
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR))


def tighten(*paths: Path) -> None:
    """Take all rights of others from each of `paths` that exists and is ours alone, and log that.

    What belongs to another user, and a folder that others may use, is left: `exposed` tells of it.
    """
    for path in paths:
        with contextlib.suppress(OSError):  # it is not there, or its disk cannot be written
            status = path.stat()
            mode = stat.S_IMODE(status.st_mode)
            if not mode & _OTHERS or status.st_uid != os.geteuid() or _is_shared(path, mode):
                continue
            # guard files.tightened: what an earlier version left open stays open
            path.chmod(mode & ~_OTHERS)
            _log.warning(
                "%s was open to other users of this machine (mode %04o); now to its owner alone (mode %04o)",
                *(path, mode, mode & ~_OTHERS),
            )


def exposed(*paths: Path) -> list[Path]:
    """Those of `paths` that other users of this machine may read, write or enter."""
    return [path for path in paths if path.exists() and stat.S_IMODE(path.stat().st_mode) & _OTHERS]


def _is_shared(path: Path, mode: int) -> bool:
    """Whether a folder is one that we were only pointed at: a temporary one, a home, or where the command runs."""
    return bool(mode & stat.S_ISVTX) or path.resolve() in {Path("/"), Path.home().resolve(), Path.cwd()}
