"""What makes videos: a local generator by ffmpeg, and any provider that is reached by HTTP."""

from reelkeeper.adapters.generator.http import HttpGenerator
from reelkeeper.adapters.generator.local import LocalGenerator

Generator = HttpGenerator | LocalGenerator

__all__ = ["Generator", "HttpGenerator", "LocalGenerator"]
