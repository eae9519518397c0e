"""Odd clips come through an encode with all their frames, streams, colours and tags, or with a reason why not."""

from pathlib import Path
from typing import Any

import pytest

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import NotAVideo
from reelkeeper.model import Media, Quality
from reelkeeper.rules.transcode import Acceptance, Recipe, accept, skip
from tests.clips import MakeClip, tool

HDR = ("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc", "-color_range", "tv")
ODD_CLIPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no sound": {"audio": ""},
    "two audio streams": {"audio": "stereo mono"},
    "surround that libopus has no name for": {"audio": "5.1(side)", "sound": "ac3"},
    "quad": {"audio": "quad", "sound": "aac"},
    "odd size and 4:4:4": {"size": "321x181", "pixels": "yuv444p"},
    "narrow": {"size": "48x200"},
    "smallest": {"size": "16x16"},
    "wide pixels": {"options": ("-aspect", "2.0")},
    "full range": {"options": ("-color_range", "pc")},
    "HDR10": {"codec": "libx265 -x265-params log-level=none", "pixels": "yuv420p10le", "options": HDR},
    "29.97 fps": {"rate": "30000/1001", "seconds": 1},
    "variable frame rate": {"seconds": 2, "options": ("-vf", "select='not(mod(n,3))+gt(n,24)'", "-fps_mode", "vfr")},
    "fragmented": {"options": ("-movflags", "frag_keyframe+empty_moov")},
    "MPEG-2 program stream": {"codec": "mpeg2video -q:v 2", "sound": "mp2", "suffix": "mpg"},
    "Matroska with Opus": {"sound": "libopus", "suffix": "mkv"},
    "MPEG-4 part 2": {"codec": "mpeg4 -q:v 2"},
}


def made(make_clip: MakeClip, name: str) -> Path:
    odd = dict(ODD_CLIPS[name])
    return make_clip(*odd.pop("options", ()), **odd)


def encoded(source: Path, tmp_path: Path, codec: str = "av1") -> tuple[Media, Media, Path]:
    media, target = ffmpeg.inspect(source), tmp_path / "out.webm"
    result = ffmpeg.encode(source, target, media, codec=codec, preset=10 if codec == "av1" else 5, crf=30)
    assert result.complete
    assert result.frames == media.frames
    return media, ffmpeg.inspect(target), target


def structural_faults(source: Media, result: Media, codec: str = "av1") -> str:
    """Every fault but size and quality, which do not matter in a drawn clip of half a second."""
    perfect = Quality("vmaf_v0.6.1", 97, 97, 97, source.frames, 1)
    lenient = Acceptance(max_size_percent=99.9)
    large = Media(**{**{name: getattr(source, name) for name in Media.__slots__}, "size_bytes": 10**9})
    refusal = accept(large, result, perfect, Recipe.model_validate({"codec": codec}), lenient)
    return refusal.reason if refusal else ""


@pytest.mark.parametrize("name", ODD_CLIPS)
def test_an_odd_clip_comes_through_whole(make_clip: MakeClip, tmp_path: Path, name: str) -> None:
    source, result, target = encoded(made(make_clip, name), tmp_path)
    assert skip(source, Recipe(skip_codecs=(), skip_bits_per_pixel=0)) is None
    assert structural_faults(source, result) == ""
    assert ffmpeg.decode(target, result).frames == source.frames


@pytest.mark.parametrize("name", ["plain", "two audio streams", "odd size and 4:4:4", "HDR10"])
def test_vp9_serves_as_well(make_clip: MakeClip, tmp_path: Path, name: str) -> None:
    source, result, _ = encoded(made(make_clip, name), tmp_path, codec="vp9")
    assert structural_faults(source, result, codec="vp9") == ""
    assert result.profile in ("Profile 0", "Profile 2")  # 4:2:0, which players take


def test_a_rotated_clip_is_turned_for_good(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = str(make_clip(size="96x64"))
    turned = tool("-display_rotation", "90", "-i", clip, "-c", "copy", str(tmp_path / "turned.mp4"))
    source, result, _ = encoded(turned, tmp_path)
    assert structural_faults(source, result) == ""
    assert (result.width, result.height) == (64, 96)


def test_subtitles_are_kept(make_clip: MakeClip, tmp_path: Path) -> None:
    text = tmp_path / "text.srt"
    text.write_text("1\n00:00:00,000 --> 00:00:00,400\nhello\n")
    merged = ["-i", str(text), "-map", "0", "-map", "1", "-c", "copy", "-c:s", "mov_text"]
    source, result, _ = encoded(tool("-i", str(make_clip()), *merged, str(tmp_path / "sub.mp4")), tmp_path)
    assert [s.codec for s in result.subtitles] == ["webvtt"]
    assert structural_faults(source, result) == ""


def test_cover_and_timecode_do_not_break_an_encode(make_clip: MakeClip, tmp_path: Path) -> None:
    cover = tool("-f", "lavfi", "-i", "color=s=32x32", "-frames:v", "1", str(tmp_path / "cover.png"))
    merged = ["-i", str(cover), "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic"]
    odd = tool("-i", str(make_clip()), *merged, "-timecode", "01:00:00:00", str(tmp_path / "odd.mp4"))
    source, result, _ = encoded(odd, tmp_path)
    assert source.streams > result.streams == 2
    assert structural_faults(source, result) == ""


def test_tags_and_creation_time_are_kept(make_clip: MakeClip, tmp_path: Path) -> None:
    tags = ["comment=a fox; in 'snow' = 雪", "creation_time=2026-01-02T03:04:05.000000Z"]
    options = [part for tag in tags for part in ("-metadata", tag)]
    tagged = tool("-i", str(make_clip()), "-c", "copy", *options, str(tmp_path / "tagged.mp4"))
    _, result, target = encoded(tagged, tmp_path)
    assert result.creation_time == "2026-01-02T03:04:05.000000Z"
    assert "a fox; in 'snow' = 雪".encode() in target.read_bytes()


def test_opus_is_copied_as_it_is(make_clip: MakeClip, tmp_path: Path) -> None:
    source = make_clip(sound="libopus -b:a 40k", suffix="mkv")
    _, _, target = encoded(source, tmp_path)
    sounds = [
        tool("-i", str(f), "-map", "0:a", "-c", "copy", str(tmp_path / f"{f.stem}.ogg")) for f in (source, target)
    ]
    assert ffmpeg.inspect(source).audio[0].codec == "opus"
    assert abs(sounds[0].stat().st_size - sounds[1].stat().st_size) < 300


def test_the_same_source_gives_the_same_bytes(tiny_clip: Path, tmp_path: Path) -> None:
    first, second = (encoded(tiny_clip, tmp_path)[2].read_bytes() for _ in range(2))
    assert first == second


def test_an_encode_that_outgrows_its_source_is_ended(make_clip: MakeClip, tmp_path: Path) -> None:
    noisy = make_clip(draw="life", size="640x360", seconds=8, audio="", codec="libx264 -preset ultrafast")
    media, target = ffmpeg.inspect(noisy), tmp_path / "out.webm"
    result = ffmpeg.encode(noisy, target, media, codec="av1", preset=10, crf=20, most_bytes=50_000)
    assert not result.complete
    assert not target.exists()
    assert result.frames < media.frames


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_source_is_not_encoded(make_clip: MakeClip, tmp_path: Path, damage: str) -> None:
    """For which ffmpeg alone exits 0, having written what it could."""
    whole = make_clip("-movflags", "+faststart", seconds=2)
    data = bytearray(whole.read_bytes())
    if damage == "truncated":
        del data[len(data) * 2 // 3 :]
    else:
        for at in range(len(data) // 2, len(data) - 100, 997):
            data[at] ^= 0xFF
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    media = ffmpeg.inspect(whole)
    with pytest.raises(NotAVideo):
        ffmpeg.encode(broken, tmp_path / "out.webm", media, codec="av1", preset=10, crf=30)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.mp4"]
