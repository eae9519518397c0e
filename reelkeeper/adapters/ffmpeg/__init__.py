"""ffmpeg and ffprobe: probe, encode, measure and decode, each call in a sandbox."""

from reelkeeper.adapters.ffmpeg.decode import Decoded, decode
from reelkeeper.adapters.ffmpeg.encode import Encoded, encode
from reelkeeper.adapters.ffmpeg.probe import inspect
from reelkeeper.adapters.ffmpeg.quality import measure
from reelkeeper.adapters.ffmpeg.runner import Progress
from reelkeeper.adapters.ffmpeg.tools import Tools, tools

__all__ = ["Decoded", "Encoded", "Progress", "Tools", "decode", "encode", "inspect", "measure", "tools"]
