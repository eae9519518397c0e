"""ffmpeg and ffprobe: probe, encode, measure, decode and animate, each call in a sandbox."""

from reelkeeper.adapters.ffmpeg.animate import Scene, animate
from reelkeeper.adapters.ffmpeg.encode import Encoding, encode
from reelkeeper.adapters.ffmpeg.probe import inspect
from reelkeeper.adapters.ffmpeg.process import stop
from reelkeeper.adapters.ffmpeg.quality import decode, measure
from reelkeeper.adapters.ffmpeg.runner import Progress
from reelkeeper.adapters.ffmpeg.tools import tools

__all__ = [
    "Encoding",
    "Progress",
    "Scene",
    "animate",
    "decode",
    "encode",
    "inspect",
    "measure",
    "stop",
    "tools",
]
