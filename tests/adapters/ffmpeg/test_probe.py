"""The description of a file matches its contents, which are counted."""

from pathlib import Path

import pytest

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import NotAVideo
from reelkeeper.model import MediaLimits
from tests.clips import MakeClip, natural, tool


def test_a_natural_clip_is_described_as_it_is() -> None:
    media = ffmpeg.inspect(natural("bunny"))
    assert (media.container, media.codec, media.width, media.height) == ("mov", "h264", 1280, 720)
    assert (media.frames, media.duration_seconds, media.bit_depth) == (132, 5.28, 8)
    assert [(s.codec, s.channels) for s in media.audio] == [("aac", 6)]


def test_frames_cut_away_by_an_edit_list_are_not_counted(make_clip: MakeClip, tmp_path: Path) -> None:
    whole = make_clip(seconds=2, codec="libx264 -g 48 -bf 0")
    part = tool("-ss", "0.5", "-i", str(whole), "-c", "copy", str(tmp_path / "part.mp4"))
    media = ffmpeg.inspect(part)
    assert media.frames == ffmpeg.decode(part).frames < ffmpeg.inspect(whole).frames


def test_a_rotated_clip_has_the_size_it_is_shown_at(make_clip: MakeClip, tmp_path: Path) -> None:
    turned = tool(
        "-display_rotation", "90", "-i", str(make_clip(size="96x64")), "-c", "copy", str(tmp_path / "turned.mp4")
    )
    media = ffmpeg.inspect(turned)
    assert (media.width, media.height) == (64, 96)
    assert media.display_aspect == pytest.approx(64 / 96)


@pytest.mark.parametrize(("pixels", "depth"), [("yuv420p", 8), ("yuv420p10le", 10), ("yuv444p", 8)])
def test_bit_depth_is_known(make_clip: MakeClip, pixels: str, depth: int) -> None:
    assert ffmpeg.inspect(make_clip(pixels=pixels)).bit_depth == depth


@pytest.mark.parametrize(
    ("pixels", "codec", "chroma"),
    [
        ("yuv420p", "libx264", "4:2:0"),
        ("yuv422p", "libx264", "4:2:2"),
        ("yuv444p", "libx264", "4:4:4"),
        ("yuvj420p", "mjpeg", "4:2:0"),
        ("rgb24", "libx264rgb", "gbrp"),
    ],
)
def test_how_colour_is_sampled_is_known(make_clip: MakeClip, pixels: str, codec: str, chroma: str) -> None:
    made = ffmpeg.inspect(make_clip(codec=codec, pixels=pixels, suffix="mov"))
    assert (made.chroma, made.field_order, made.side_data) == (chroma, "progressive", ())


def test_transparency_is_seen(make_clip: MakeClip) -> None:
    in_mov = make_clip(codec="prores_ks -profile:v 4444", pixels="yuva444p10le", suffix="mov")
    in_webm = make_clip("-auto-alt-ref", "0", codec="libvpx-vp9", pixels="yuva420p", sound="libopus", suffix="webm")
    assert ffmpeg.inspect(in_mov).has_alpha
    assert ffmpeg.inspect(in_webm).has_alpha


def test_a_cover_picture_is_not_the_video(make_clip: MakeClip, tmp_path: Path) -> None:
    cover = tool("-f", "lavfi", "-i", "color=s=32x32", "-frames:v", "1", str(tmp_path / "cover.png"))
    merged = ["-i", str(cover), "-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic"]
    media = ffmpeg.inspect(tool("-i", str(make_clip()), *merged, str(tmp_path / "cover.mp4")))
    assert (media.codec, media.width, media.video_streams) == ("h264", 64, 1)


@pytest.mark.parametrize(
    ("limits", "figure"),
    [
        ({"max_size_bytes": 1000}, "1000"),
        ({"max_pixels": 4095}, "4095"),
        ({"max_side": 63}, "63"),
        ({"min_side": 65}, "65"),
        ({"max_duration_seconds": 0.4}, r"0\.4"),
        ({"min_duration_seconds": 0.6}, r"0\.6"),
        ({"max_frames": 11}, "12"),
        ({"max_frame_rate": 23}, "24"),
        ({"max_streams": 1}, "2"),
    ],
)
def test_a_video_beyond_a_limit_is_refused_with_its_figure(
    tiny_clip: Path, limits: dict[str, int], figure: str
) -> None:
    with pytest.raises(NotAVideo, match=figure):
        ffmpeg.inspect(tiny_clip, MediaLimits(**limits))


def test_a_picture_that_is_larger_than_its_container_says_is_not_decoded(tiny_clip: Path) -> None:
    media = ffmpeg.inspect(tiny_clip)
    pixels = media.width * media.height
    assert ffmpeg.decode(tiny_clip, media, MediaLimits(max_pixels=4 * pixels)).frames == 12
    with pytest.raises(NotAVideo):
        ffmpeg.decode(tiny_clip, media, MediaLimits(max_pixels=pixels - 1))


def test_a_decode_tells_how_long_a_video_really_is() -> None:
    decoded = ffmpeg.decode(natural("bunny"))
    assert decoded.frames == 132
    assert decoded.duration_seconds == pytest.approx(5.28)


def test_a_picture_does_not_last_as_long_as_the_sound_where_its_container_states_one_length(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    """As GStreamer writes WebM, where ffmpeg and mkvmerge add the length of each stream in a tag."""
    made = make_clip("-vf", "trim=duration=1", seconds=3, codec="libvpx-vp9", suffix="webm", sound="libopus")
    (clip := tmp_path / "untagged.webm").write_bytes(made.read_bytes().replace(b"DURATION", b"XURATION"))
    media = ffmpeg.inspect(clip)
    assert (media.duration_seconds, media.frame_rate) == pytest.approx((1, 24), abs=0.05)
    assert ffmpeg.decode(clip, media).duration_seconds == pytest.approx(media.duration_seconds, abs=0.05)
