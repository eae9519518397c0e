"""Make a video of a still or drawn picture: the camera pans over it and zooms in."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg

from reelkeeper.adapters.ffmpeg.command import confined
from reelkeeper.adapters.ffmpeg.intake import scratch_dir
from reelkeeper.adapters.ffmpeg.runner import Watch
from reelkeeper.errors import NotAVideo

_MAX_IMAGE_BYTES = 50 << 20
_MAX_PIXELS = 8192 * 8192
_CLOSER = 0.3  # by the end, the camera shows 1 / 1.3 of the picture
_DEMUXERS = {b"\x89PNG\r\n\x1a\n": ("png_pipe", "png"), b"\xff\xd8\xff": ("jpeg_pipe", "mjpeg")}
_FASTEST_PIXELS = 1e6  # a second, on a very busy core; ten times slower than measured on an idle one


@dataclass(frozen=True, slots=True)
class Scene:
    """A video to make. With the same ffmpeg, equal scenes give equal bytes."""

    width: int  # pixels, even
    height: int
    seconds: float
    fps: int
    seed: str  # of the generated picture and the camera's path

    @property
    def frames(self) -> int:
        """The number of frames."""
        return max(1, round(self.seconds * self.fps))


def animate(scene: Scene, output: Path, *, image: Path | None = None, watch: Watch | None = None) -> None:
    """Write `scene` to `output` as H.264 in MP4, over a PNG or JPEG `image` or, without one, over colours.

    Raises NotAVideo for an invalid image, MediaTimeout, MediaError; whatever `watch` raises ends it.
    """
    chance = hashlib.sha256(scene.seed.encode()).digest()
    with scratch_dir(output.parent) as work:
        size = f"{scene.width}x{scene.height}"
        if image:
            picture = _admitted(image, work).filter("scale", 2 * scene.width, -2)
        else:
            picture = ffmpeg.input(_colours(scene, chance), f="lavfi")
        done = f"on/{scene.frames}"
        across, down = (f"{share / 255:.3f}" for share in chance[4:6])
        moving = picture.filter(
            "zoompan",
            z=f"1+{_CLOSER}*{done}",
            x=f"(iw-iw/zoom)*{across}",
            y=f"(ih-ih/zoom)*{down}",
            d=scene.frames,
            s=size,
            fps=scene.fps,
        ).filter("trim", end_frame=scene.frames)
        draft = work / "out.mp4"
        look: dict[str, Any] = {
            "c:v": "libx264",
            "preset": "veryfast",
            "crf": 23,
            "pix_fmt": "yuv420p",
            "threads": 1,
            "movflags": "+faststart",
            "fflags": "+bitexact",
            "map_metadata": -1,
        }
        limit = 60 + 2 * scene.frames * scene.width * scene.height / _FASTEST_PIXELS
        confined(ffmpeg.output(moving, f"file:{draft}", f="mp4", **look), work, limit, watch).check("animate")
        draft.replace(output)


def _colours(scene: Scene, chance: bytes) -> str:
    """Draw one frame of four colours. They are given explicitly, since ffmpeg's own choice differs from run to run."""
    colours = [f"c{number}=0x{chance[8 + 3 * number :][:3].hex()}" for number in range(4)]
    corners = f"x0=0:y0={chance[6] * scene.height // 256}:x1={scene.width - 1}:y1={chance[7] * scene.height // 256}"
    return f"gradients=s={scene.width}x{scene.height}:n=4:d=0.04:r=25:{corners}:{':'.join(colours)}"


def _admitted(image: Path, work: Path) -> Any:  # noqa: ANN401  ffmpeg-python has no types
    """Copy an untrusted picture to `work`; open it only with the demuxer and decoder for its first bytes."""
    if not 0 < (size := image.stat().st_size) <= _MAX_IMAGE_BYTES:
        raise NotAVideo(f"the image has {size} bytes, allowed are 1 to {_MAX_IMAGE_BYTES}")
    with image.open("rb") as file:
        head = file.read(8)
    known = next((how for start, how in _DEMUXERS.items() if head.startswith(start)), None)
    if known is None:
        raise NotAVideo(f"the first bytes {head.hex(' ')} of the image are not those of PNG or JPEG")
    demuxer, decoder = known
    link = work / "in.image"
    link.symlink_to(image.absolute())
    return ffmpeg.input(
        f"file:{link}",
        f=demuxer,
        protocol_whitelist="file",
        format_whitelist=demuxer,
        codec_whitelist=decoder,
        max_pixels=_MAX_PIXELS,
        threads=1,
    )
