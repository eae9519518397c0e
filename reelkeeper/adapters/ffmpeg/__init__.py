"""ffmpeg and ffprobe: probe, encode, measure, decode and animate, each call in a sandbox."""

from reelkeeper.adapters.ffmpeg.animate import Scene, animate
from reelkeeper.adapters.ffmpeg.encode import Encoded, Encoding, encode
from reelkeeper.adapters.ffmpeg.probe import inspect
from reelkeeper.adapters.ffmpeg.quality import Decoded, decode, measure
from reelkeeper.adapters.ffmpeg.runner import Progress
from reelkeeper.adapters.ffmpeg.tools import Tools, tools

__all__ = [
    "Decoded",
    "Encoded",
    "Encoding",
    "Progress",
    "Scene",
    "Tools",
    "animate",
    "decode",
    "encode",
    "inspect",
    "measure",
    "tools",
]
