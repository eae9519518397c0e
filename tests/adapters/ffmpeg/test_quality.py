"""Quality is measured between corresponding frames, for all of them, and a doubt never counts as a pass."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.ffmpeg import quality
from reelkeeper.adapters.ffmpeg.tools import TUNING
from reelkeeper.errors import NotAVideo, ToolMissing
from tests.clips import MakeClip, cut, tool


@pytest.mark.long
def test_frames_are_paired_by_index_and_not_by_time(tmp_path: Path) -> None:
    """WebM's milliseconds make every 24 fps clip look bad where frames are paired by their timestamps."""
    source = cut("bikes", tmp_path / "24.mp4", seconds=2, encoder="-crf 18 -r 24")
    media, result = ffmpeg.inspect(source), tmp_path / "out.webm"
    ffmpeg.encode(source, result, media, ffmpeg.Encoding("av1", preset=10, crf=30, container="webm"))
    measured, _ = ffmpeg.measure(result, source, media)
    naive = tmp_path / "naive.json"
    graph = f"[0:v][1:v]libvmaf=log_fmt=json:log_path={naive}"
    tool("-i", str(result), "-i", str(source), "-lavfi", graph, "-f", "null", "-")
    by_time = json.loads(naive.read_text())["pooled_metrics"]["vmaf"]["mean"]
    assert measured.frames == media.frames
    assert measured.mean > 95
    assert measured.mean - by_time > 3


def test_every_frame_is_compared_and_the_tail_is_judged_too(tiny_clip: Path, tmp_path: Path) -> None:
    media, result = ffmpeg.inspect(tiny_clip), tmp_path / "out.webm"
    ffmpeg.encode(tiny_clip, result, media, ffmpeg.Encoding("av1", preset=10, crf=40))
    whole, _ = ffmpeg.measure(result, tiny_clip, media)
    third, _ = ffmpeg.measure(result, tiny_clip, media, subsample=3)
    assert (whole.frames, third.frames) == (12, 4)
    assert whole.minimum <= whole.p5 <= whole.mean


@pytest.mark.parametrize(("change", "least", "most"), [("null", 45, 60), ("swapuv", 0, 30), ("hue=s=0.5", 0, 32)])
def test_wrong_colours_are_seen_at_which_vmaf_does_not_look(
    tiny_clip: Path, tmp_path: Path, change: str, least: float, most: float
) -> None:
    media, result = ffmpeg.inspect(tiny_clip), tmp_path / "out.mp4"
    tool("-i", str(tiny_clip), "-vf", change, "-c:v", "libx264", "-qp", "1", "-pix_fmt", "yuv420p", str(result))
    measured, _ = ffmpeg.measure(result, tiny_clip, media)
    assert measured.mean > 95
    assert least <= measured.chroma_db <= most


@pytest.mark.parametrize("rate", ["1/2", "12", "24000/1001", "30", "60", "240"])
def test_any_frame_rate_can_be_compared(make_clip: MakeClip, rate: str) -> None:
    clip = make_clip(rate=rate, seconds=4 if rate == "1/2" else 0.5, audio="")
    measured, _ = ffmpeg.measure(clip, clip, ffmpeg.inspect(clip))
    assert measured.mean > 95


def test_a_missing_frame_is_no_pass(make_clip: MakeClip) -> None:
    source, shorter = make_clip(seconds=1), make_clip(seconds=0.5)
    with pytest.raises(NotAVideo, match=r"24 .* 12 "):
        ffmpeg.measure(shorter, source, replace(ffmpeg.inspect(source), frames=12))


def test_a_damaged_result_is_no_pass(make_clip: MakeClip, tmp_path: Path) -> None:
    source, broken = make_clip(seconds=2), tmp_path / "broken.mp4"
    broken.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    with pytest.raises(NotAVideo):
        ffmpeg.measure(broken, source, ffmpeg.inspect(source))


def test_a_result_of_another_size_is_no_pass(make_clip: MakeClip) -> None:
    source, smaller = make_clip(), make_clip(size="32x32")
    with pytest.raises(NotAVideo):
        ffmpeg.measure(smaller, source, ffmpeg.inspect(source))


def test_without_libvmaf_nothing_is_accepted(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(ffmpeg.tools(), filters=frozenset({"ssim", "xpsnr"}))
    monkeypatch.setattr(quality, "tools", lambda: bare)
    with pytest.raises(ToolMissing, match="REELKEEPER_FFMPEG"):
        ffmpeg.measure(tiny_clip, tiny_clip, ffmpeg.inspect(tiny_clip))


def test_an_encoder_is_named_with_its_version_or_refused() -> None:
    tools = ffmpeg.tools()
    assert tools.encoder("av1").startswith("libsvtav1 ")
    assert tools.encoder("vp9").startswith("libvpx-vp9 ")
    assert tools.encoder("h264").endswith(f"ffmpeg {tools.ffmpeg_version} {TUNING['h264']}")  # results differ by it
    with pytest.raises(ToolMissing, match="libsvtav1"):
        replace(tools, encoders=frozenset({"libopus"})).encoder("av1")
