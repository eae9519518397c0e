"""Make a video on this machine: ffmpeg, in its sandbox, pans over a picture.

It replaces a provider if none is configured: the output is a real video of the requested size and length.
"""

from pathlib import Path

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.providers.contract import NO_IMAGES, ImageSource, Log, Made, Order
from reelkeeper.errors import GenerationFailed, GenerationRefused, MediaError, NotAVideo, ToolMissing


class LocalGenerator:
    """Pans over the input image, or over one generated from the prompt and the seed."""

    name = "local"
    outlives_us = False  # its work ends with its worker

    def __init__(self, images: Path, kept: ImageSource = NO_IMAGES) -> None:
        self._images, self._kept = images, kept

    def make(self, order: Order, target: Path, log: Log) -> Made:
        """Make the video `target`. Raises GenerationRefused, GenerationFailed, ToolMissing, or what `log` raises."""
        request = order.request
        image = None
        if digest := request.get("image_sha256"):
            image = self._found(str(digest), target.parent)
            if image is None:
                raise GenerationRefused(f"no input image {str(digest)[:64]!r}")
        scene = ffmpeg.Scene(
            width=int(request["width"]),
            height=int(request["height"]),
            seconds=float(request["duration_seconds"]),
            fps=int(request["fps"]),
            seed=f"{request.get('seed') or 0} {request.get('prompt')}",
        )

        def watch(progress: ffmpeg.Progress) -> bool:
            log.progress(min(progress.frames / scene.frames, 1.0))
            return False

        try:
            ffmpeg.animate(scene, target, image=image, watch=watch)
        except ToolMissing:
            raise
        except NotAVideo as wrong:
            raise GenerationRefused(f"the input image cannot be used: {wrong}") from wrong
        except MediaError as error:
            raise GenerationFailed(str(error)) from error
        return Made(target, cost_microusd=0)

    def _found(self, digest: str, work: Path) -> Path | None:
        """Find an input image in its folder, or fetch it from the bucket."""
        if not digest.isalnum():
            return None
        image, fetched = self._images / digest, work / "image"
        if image.is_file():
            return image
        return fetched if self._kept.fetch(digest, fetched) else None
