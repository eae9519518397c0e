"""Turn a graph of ffmpeg-python into one confined call of ffmpeg."""

from pathlib import Path
from typing import Any

import ffmpeg

from reelkeeper.adapters.ffmpeg.runner import Finished, Watch, run
from reelkeeper.adapters.ffmpeg.sandbox import Bounds
from reelkeeper.adapters.ffmpeg.tools import tools
from reelkeeper.model import Media

# -xerror: without it ffmpeg exits 0 on a truncated or damaged file. Statistics twice a second drive the watcher.
_ALWAYS = (
    *("-hide_banner", "-nostdin", "-xerror", "-v", "error", "-nostats", "-progress", "pipe:1", "-stats_period", "0.5"),
    *("-filter_threads", "1", "-filter_complex_threads", "1"),
)


def wall_seconds(media: Media) -> float:
    """Return the time limit in seconds of one pass over `media`: 60, plus 40 per second of video and megapixel.

    Ten times what SVT-AV1 preset 6 took per second of 720p and 1080p video on one busy core.
    """
    return 60 + 40 * media.duration_seconds * media.width * media.height / 1e6


def confined(
    spec: Any,  # noqa: ANN401  ffmpeg-python has no types
    work: Path,
    wall_seconds: float,
    watch: Watch | None = None,
    file_bytes: int = 256 << 20,
) -> Finished:
    """Run the graph `spec` in the folder `work` within a time limit, with no file larger than `file_bytes`.

    Raises MediaTimeout. The caller checks how it ended.
    """
    argv = ffmpeg.compile(spec.global_args(*_ALWAYS), cmd=tools().ffmpeg, overwrite_output=True)
    return run(
        argv,
        scratch_dir=work,
        bounds=Bounds(wall_seconds=wall_seconds, file_bytes=file_bytes),
        walls=tools().walls,
        watch=watch or (lambda _: False),
    )
