"""Odd clips come through an encode with all their frames, streams, colours and tags, or with a reason why not."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import NotAVideo
from reelkeeper.model import Media, Quality
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe, accept, skip
from tests.clips import MakeClip, tool

HDR = ("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc", "-color_range", "tv")
DISPLAY = (
    "log-level=none:hdr10=1:max-cll=1000,400:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
)
ODD_CLIPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no sound": {"audio": ""},
    "two audio streams": {"audio": "stereo mono"},
    "surround that libopus has no name for": {"audio": "5.1(side)", "sound": "ac3"},
    "quad": {"audio": "quad", "sound": "aac"},
    "odd size": {"size": "321x181", "pixels": "yuv420p"},
    "narrow": {"size": "48x200"},
    "smallest": {"size": "16x16"},
    "wide pixels": {"options": ("-aspect", "2.0")},
    "full range": {"options": ("-color_range", "pc")},
    "HDR10": {"codec": "libx265 -x265-params log-level=none", "pixels": "yuv420p10le", "options": HDR},
    "HDR10 with its display": {"codec": f"libx265 -x265-params {DISPLAY}", "pixels": "yuv420p10le", "options": HDR},
    "gray": {"pixels": "gray"},
    "two eyes": {"suffix": "mkv", "options": ("-metadata:s:v:0", "stereo_mode=left_right")},
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


def perfect(source: Media) -> Quality:
    return Quality("vmaf_v0.6.1", 97, 97, 97, source.frames, 1)


def structural_faults(source: Media, result: Media, codec: str = "av1") -> str:
    """Every fault but size and quality, which do not matter in a drawn clip of half a second."""
    lenient, large = Acceptance(max_size_percent=99.9), replace(source, size_bytes=10**9)
    refusal = accept(large, result, perfect(source), Recipe.model_validate({"codec": codec}), lenient)
    return refusal.reason if refusal else ""


@pytest.mark.long
@pytest.mark.parametrize("name", ODD_CLIPS)
def test_an_odd_clip_comes_through_whole(make_clip: MakeClip, tmp_path: Path, name: str) -> None:
    source, result, target = encoded(made(make_clip, name), tmp_path)
    assert skip(source, Recipe(skip_codecs=())) is None
    assert structural_faults(source, result) == ""
    assert ffmpeg.decode(target, result).frames == source.frames


@pytest.mark.parametrize("name", ["plain", "two audio streams", "odd size", "HDR10"])
def test_vp9_serves_as_well(make_clip: MakeClip, tmp_path: Path, name: str) -> None:
    source, result, _ = encoded(made(make_clip, name), tmp_path, codec="vp9")
    assert structural_faults(source, result, codec="vp9") == ""
    assert result.profile in ("Profile 0", "Profile 2")  # 4:2:0, which players take


INTERLACED = ("-vf", "interlace=scan={order}", "-flags", "+ilme+ildct")
# What our encoder would flatten and VMAF, which compares luma frame by frame, would not see.
LOST: dict[str, tuple[dict[str, Any], str, str]] = {
    "4:4:4": ({"pixels": "yuv444p"}, "chroma", "chroma"),
    "4:2:2": ({"pixels": "yuv422p"}, "chroma", "chroma"),
    "4:2:2 in 10 bits": ({"codec": "prores_ks", "pixels": "yuv422p10le", "suffix": "mov"}, "chroma", "chroma"),
    "RGB": ({"codec": "libx264rgb -crf 10", "pixels": "rgb24"}, "chroma", "chroma"),
    "12 bits": (
        {"codec": "libx265 -x265-params log-level=none", "pixels": "yuv420p12le"},
        "bit_depth",
        "bit_depth",
    ),
    "top field first": (
        {"codec": "libx264 -crf 10 -x264-params tff=1", "options": INTERLACED, "order": "tff"},
        "interlaced",
        "field_order",
    ),
    "bottom field first": (
        {"codec": "libx264 -crf 10 -x264-params bff=1", "options": INTERLACED, "order": "bff"},
        "interlaced",
        "field_order",
    ),
    "interlaced MPEG-4 part 2, which only its frames tell": (
        {"codec": "mpeg4 -q:v 2", "options": INTERLACED, "order": "tff"},
        "interlaced",
        "field_order",
    ),
    "interlaced MPEG-2": (
        {"codec": "mpeg2video -q:v 2", "sound": "mp2", "suffix": "mpg", "options": INTERLACED, "order": "tff"},
        "interlaced",
        "field_order",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_what_a_result_would_lose_is_refused_before_and_after_the_encode(
    make_clip: MakeClip, tmp_path: Path, name: str
) -> None:
    kind, early, late = LOST[name]
    odd = {"size": "128x96"} | kind
    order = odd.pop("order", "")
    source = make_clip(*(part.format(order=order) for part in odd.pop("options", ())), **odd)
    media, result, _ = encoded(source, tmp_path)
    refusal = skip(media, Recipe(skip_codecs=()))
    assert refusal is not None
    assert (refusal.rule, refusal.permanent) == (early, True)
    faults = accept(replace(media, size_bytes=10**9), result, perfect(media), Recipe(), Acceptance())
    assert faults is not None
    assert faults.rule == late, faults.reason


def test_a_clip_turned_by_an_odd_angle_is_left_as_it_is(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = str(make_clip(size="96x64"))
    turned = tool("-display_rotation", "45", "-i", clip, "-c", "copy", str(tmp_path / "turned.mp4"))
    refusal = skip(ffmpeg.inspect(turned), Recipe())
    assert refusal is not None
    assert refusal.rule == "side_data"


@pytest.mark.parametrize("layout", ["2.1", "4.0", "3.1"])
def test_sound_that_opus_would_mix_into_another_layout_is_left_as_it_is(make_clip: MakeClip, layout: str) -> None:
    refusal = skip(ffmpeg.inspect(make_clip(audio=layout, sound="aac")), Recipe())
    assert refusal is not None
    assert refusal.rule == "audio_layout"
    assert layout in refusal.reason


def test_a_rotated_clip_is_turned_for_good(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = str(make_clip(size="96x64"))
    turned = tool("-display_rotation", "90", "-i", clip, "-c", "copy", str(tmp_path / "turned.mp4"))
    source, result, _ = encoded(turned, tmp_path)
    assert structural_faults(source, result) == ""
    assert (result.width, result.height) == (64, 96)


def times(clip: Path, log: Path) -> list[float]:
    """When each frame is shown, from the first on, in seconds."""
    exact = ("-fps_mode", "passthrough", "-enc_time_base", "1:90000")
    tool("-i", str(clip), "-map", "0:v", *exact, "-f", "framecrc", str(log))
    lines = log.read_text().splitlines()
    over, under = next(line for line in lines if line.startswith("#tb"))[7:].split("/")
    ticks = [int(line.split(",")[2]) for line in lines if not line.startswith("#")]
    return [(tick - ticks[0]) * int(over) / int(under) for tick in ticks]


@pytest.mark.parametrize("codec", ["av1", "vp9"])
def test_every_frame_of_an_uneven_rate_keeps_its_time(make_clip: MakeClip, tmp_path: Path, codec: str) -> None:
    uneven = ("-vf", r"settb=1/90000,setpts=PTS+mod(N\,3)*0.01/TB", "-enc_time_base", "1:90000")
    source = make_clip(*uneven, "-fps_mode", "passthrough")
    before = times(source, tmp_path / "before.txt")
    after = times(encoded(source, tmp_path, codec)[2], tmp_path / "after.txt")
    assert [round(1000 * at) for at in before] == list(ffmpeg.inspect(source).shown_at_ms)
    assert len({round(later - earlier, 3) for earlier, later in pairwise(before)}) > 1
    assert after == pytest.approx(before, abs=0.001)  # WebM counts in milliseconds


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


@pytest.mark.long
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
