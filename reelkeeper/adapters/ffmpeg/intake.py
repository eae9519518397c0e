"""Check an untrusted file before any decoder sees it: whether its container is accepted, and how ffmpeg may open it.

A playlist or concat script named .mp4 makes ffmpeg read other files; a whitelist of protocols does not stop it from
opening a sibling by a relative path. So the file is identified here by its first bytes, ffmpeg may use only that one
demuxer, and it sees the file under a fixed name in a private folder.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reelkeeper import disk
from reelkeeper.adapters.ffmpeg.boxes import walk
from reelkeeper.errors import NotAVideo
from reelkeeper.model import MediaLimits

_ISO_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_PLAYED = (b"moov", b"mdat")
_PREFIX = "reelkeeper-desk-"
SCRATCH = "the scratch disk"
SCRATCH_REMEDY = "Free some space, set REELKEEPER_SCRATCH_DIR to a larger disk, or REELKEEPER_WORKERS to fewer"
_TEMPORARY_REMEDY = "Free some space, or set TMPDIR to a larger disk"
_DEMUXERS = {
    "mov": ("mov", "mov,mp4,m4a,3gp,3g2,mj2"),
    "webm": ("matroska", "matroska,webm"),
    "mpeg": ("mpeg", "mpeg"),
}
# The decoders that videos of a generation service need. Rare decoders are the ones with the most faults.
_DECODERS = (
    "h264,hevc,mpeg4,mpeg1video,mpeg2video,vp8,vp9,libdav1d,av1,libvpx,libvpx-vp9,prores,mjpeg,png,"
    "aac,mp3,mp3float,mp2,mp2float,opus,libopus,vorbis,flac,alac,ac3,ac3_fixed,eac3,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_f32le,mov_text,webvtt,subrip,srt,ass,ssa"
)


@dataclass(frozen=True, slots=True)
class Clip:
    """A file that ffmpeg may open, by a fixed name in a scratch folder; `container` is mov, webm or mpeg."""

    path: Path
    container: str
    size_bytes: int

    def options(self, limits: MediaLimits) -> dict[str, object]:
        """Return the input options that this file must be opened with."""
        demuxer, whitelist = _DEMUXERS[self.container]
        return {
            # guard intake.demuxer: ffmpeg reads a script as a video, and opens the files that it names
            "f": demuxer,
            # guard intake.protocols: a file makes ffmpeg fetch a URL of its choice
            "protocol_whitelist": "file",
            # guard intake.formats: a file opens another file in a format that was not expected
            "format_whitelist": whitelist,
            # guard intake.codecs: a file selects a rare, less tested decoder
            "codec_whitelist": _DECODERS,
            # guard intake.pixels: a file of a kilobyte uses gigabytes of memory
            "max_pixels": limits.max_pixels,
        }

    @property
    def url(self) -> str:
        """The only form in which ffmpeg takes every file name literally."""
        return f"file:{self.path}"


@contextlib.contextmanager
def scratch_dir(folder: Path | None = None) -> Iterator[Path]:
    """Create a private folder for one job, under `folder` or the system's, and remove it afterwards.

    It is locked while its owner lives, so that `sweep_scratch_dirs` recognises folders of killed processes. Raises
    DiskFull, before the work or from within it, if the disk is full.
    """
    place = folder or Path(tempfile.gettempdir())
    role, remedy = (SCRATCH, SCRATCH_REMEDY) if folder else ("the disk of temporary files", _TEMPORARY_REMEDY)
    disk.require(place, role, remedy)
    with (
        disk.watched(place, role, remedy),
        tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder, ignore_cleanup_errors=True) as path,
        _locked(Path(path)),
    ):
        yield Path(path).absolute()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder and yield True, or False if another process holds the lock, which ends with that process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def sweep_scratch_dirs(scratch: Path, older_than_seconds: float = 3600) -> int:
    """Remove the folders of killed processes in `scratch` and in the system's folder; return how many.

    A locked folder is in use; a new one may be about to be locked. Folders of other users are not touched.
    """
    swept = 0
    for folder in {scratch, Path(tempfile.gettempdir())}:
        for left in folder.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):  # removed meanwhile, or not ours to open
                status = left.lstat()
                old = time.time() - status.st_mtime > older_than_seconds
                if not (old and stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()):
                    continue
                with _locked(left) as free:
                    if free:
                        shutil.rmtree(left)
                        swept += 1
    return swept


def admit(source: Path, work: Path, limits: MediaLimits, name: str = "in") -> Clip:
    """Link `source` into the folder `work` under a safe name. Raises NotAVideo if its first bytes are of no video."""
    status = source.stat()
    if not stat.S_ISREG(status.st_mode):
        raise NotAVideo("not a regular file")
    # guard intake.size: a file of a terabyte is read to its end
    if not 0 < status.st_size <= limits.max_size_bytes:
        raise NotAVideo(f"{status.st_size} bytes, allowed are 1 to {limits.max_size_bytes}")
    with source.open("rb") as file:
        container = _container(file.read(16))
    clip = Clip(work / f"{name}.{container}", container, status.st_size)
    clip.path.symlink_to(source.absolute())
    return clip


def _container(head: bytes) -> str:
    if head[4:8] in _ISO_BOXES:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):  # EBML: Matroska and WebM
        return "webm"
    if head.startswith(b"\x00\x00\x01\xba"):  # an MPEG program stream's pack header
        return "mpeg"
    # guard intake.first_bytes: a script with the extension .mp4 reaches ffmpeg
    raise NotAVideo(f"its first bytes {head[:8].hex(' ') or '(none)'} are not those of MP4, WebM or MPEG-PS")


def has_index_first(clip: Clip) -> bool:
    """Check whether the index (moov) of an MP4 precedes its media data (mdat)."""
    if clip.container != "mov":
        return False
    with clip.path.open("rb") as file:
        return next((box.kind for box in walk(file, 0, clip.size_bytes) if box.kind in _PLAYED), b"") == b"moov"
