"""The disks that Reelkeeper writes to: room on them, and files that no other user of the machine may read.

Prompts, customers' videos and keys lie in such files. Their mode is given when they are made, so no umask makes it
wider, and taken from what an earlier version made wider.

Libraries report a full disk late or not at all: the embedded S3 server answers 500 to each put, ffmpeg leaves a file
that looks like a broken video. So work asks for room before it begins, and a failure looks at the disk again.
"""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from reelkeeper.errors import DiskFull

# Below this a disk counts as full. A first run of a flow over two videos takes 8 MB in a new state folder (measured:
# Prefect's database 5 MB, the store 1 MB, the S3 server 2 MB with the videos); four times that is room to end well.
FLOOR_BYTES: Final = 32_000_000
STATE_REMEDY: Final = "Free some space, or move the state folder to a larger disk (REELKEEPER_STATE_DIR)"
_IN_A_STATE_FOLDER: Final = (  # what we put there, or advise to: the beginnings of names
    *("store.sqlite3", "s3", "prefect", "logs", "scratch", "images", "backups", "up.", "forkserver.sock", "watchdog"),
    *(".reelkeeper", ".env", "policies"),
)
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_log = logging.getLogger(__name__)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Disk(NamedTuple):
    """A file system, as it is now."""

    kind: str  # such as ext4, tmpfs
    mounted_at: Path
    free_bytes: int
    size_bytes: int
    has_inodes: bool  # whether a new file could be made


def look(path: Path) -> Disk:
    """Describe the file system that holds `path`, or would hold it once it is made."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    room = os.statvfs(place)
    mount = place.resolve()
    while not os.path.ismount(mount):
        mount = mount.parent
    has_inodes = room.f_files == 0 or room.f_favail > 0  # some file systems, such as btrfs, count none
    return Disk(_kind(mount), mount, room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize, has_inodes)


def require(path: Path, role: str, remedy: str, needed_bytes: int = FLOOR_BYTES) -> None:
    """Raise DiskFull unless the disk of `path` has `needed_bytes` free, and room for a new file."""
    if not has_room(path, needed_bytes):
        raise full(path, role, remedy, needed_bytes)


def has_room(path: Path, needed_bytes: int = FLOOR_BYTES) -> bool:
    """Check whether the disk of `path` has `needed_bytes` free, and room for a new file."""
    disk = look(path)
    return disk.free_bytes >= needed_bytes and disk.has_inodes


def full(path: Path, role: str, remedy: str, needed_bytes: int = FLOOR_BYTES) -> DiskFull:
    """Make the error: which folder is full, on which file system, how much is free, and what to do."""
    disk = look(path)
    lack = "" if disk.has_inodes else ", and no inode for a new file"
    return DiskFull(
        f"{role} is full: {path.absolute()}, on the {disk.kind} file system at {disk.mounted_at}, has "
        f"{disk.free_bytes:,} of {disk.size_bytes:,} bytes free{lack}; {needed_bytes:,} are needed. {remedy}; "
        "then run it again: nothing is lost, and what is done stays done"
    )


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one of its causes, is the kernel's report of a full disk or disk quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def watched(path: Path, role: str, remedy: str) -> Iterator[None]:
    """Turn the kernel's error for a full disk, raised inside, into DiskFull of `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full(path, role, remedy) from error
        raise


def _kind(mount: Path) -> str:
    """Name the type of the file system at a mount point (proc_pid_mountinfo(5)); the last one mounted there counts."""
    kind = "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4].encode().decode("unicode_escape") == str(mount):
            kind = after.split()[0]
    return kind


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

    Files of another user, and folders that others may use, are left alone: `exposed` reports them.
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


def tighten_state(folder: Path) -> None:
    """Tighten a state folder, unless it holds what we did not put there, such as files that a server serves."""
    with contextlib.suppress(OSError):
        # guard files.others_folder: other programs lose a folder of theirs that a mistaken setting names
        if all(entry.name.startswith(_IN_A_STATE_FOLDER) for entry in folder.iterdir()):
            tighten(folder)


def exposed(*paths: Path) -> list[Path]:
    """List those of `paths` that other users of this machine may read, write or enter."""
    return [path for path in paths if path.exists() and stat.S_IMODE(path.stat().st_mode) & _OTHERS]


def _is_shared(path: Path, mode: int) -> bool:
    """Check whether a folder is not only ours: a temporary one, a home, or the current one."""
    return bool(mode & stat.S_ISVTX) or path.resolve() in {Path("/"), Path.home().resolve(), Path.cwd()}
