"""Encodes of unusual clips keep all frames, streams, colours and tags, or are refused with a reason.

Slow: each case makes a clip, encodes it and reads all its frames.
"""

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


_TEN_BITS = "10 bits, a result can have 8"  # few devices play H.264 of more
NOT_AS_H264 = {
    "HDR10": _TEN_BITS,
    "HDR10 with its display": _TEN_BITS,
    "two eyes": "Stereo 3D would be lost",  # MP4 takes it from ffmpeg for few layouts
}


def made(make_clip: MakeClip, name: str) -> Path:
    odd = dict(ODD_CLIPS[name])
    return make_clip(*odd.pop("options", ()), **odd)


H264, HEVC = Recipe(codec="h264", preset=1), Recipe(codec="hevc", preset=1)
AV1, VP9 = (Recipe(codec=codec, preset=preset, container="webm") for codec, preset in (("av1", 10), ("vp9", 5)))
RECIPES = {"H.264 in MP4": H264, "HEVC in MP4": HEVC, "AV1 in MP4": Recipe(codec="av1", preset=10), "AV1 in WebM": AV1}
RECIPES |= {"VP9 in MP4": Recipe(codec="vp9", preset=5), "VP9 in WebM": VP9}


def encoded(source: Path, tmp_path: Path, recipe: Recipe = AV1) -> tuple[Media, Media, Path]:
    media, target = ffmpeg.inspect(source), tmp_path / f"out.{recipe.container}"
    result = ffmpeg.encode(
        source, target, media, ffmpeg.Encoding(recipe.codec, recipe.preset or 0, 30, recipe.container)
    )
    assert result.complete
    assert result.frames == media.frames
    return media, ffmpeg.inspect(target), target


def perfect(source: Media) -> Quality:
    return Quality("vmaf_v0.6.1", 97, 97, 97, 60, source.frames, 1)


def structural_faults(source: Media, result: Media, recipe: Recipe = AV1) -> str:
    """Every fault but size and quality, which do not matter in a drawn clip of half a second."""
    lenient, large = Acceptance(max_size_percent=99.9), replace(source, size_bytes=10**9)
    refusal = accept(large, result, perfect(source), recipe, lenient)
    return refusal.reason if refusal else ""


def test_x264_spends_no_bytes_on_what_vmaf_does_not_see(tiny_clip: Path, tmp_path: Path) -> None:
    """It writes its settings into the picture's stream."""
    _, _, target = encoded(tiny_clip, tmp_path, H264)
    told = target.read_bytes()
    assert b"x264 - core" in told
    assert (b" psy=0 " in told, b" aq=1:0.50" in told) == (True, True)


@pytest.mark.long
@pytest.mark.parametrize("name", ODD_CLIPS)
@pytest.mark.parametrize("recipe", [H264, AV1], ids=["H.264 in MP4", "AV1 in WebM"])
def test_an_unusual_clip_is_encoded_completely(make_clip: MakeClip, tmp_path: Path, name: str, recipe: Recipe) -> None:
    clip = made(make_clip, name)
    if reason := NOT_AS_H264.get(name) if recipe is H264 else None:
        refusal = skip(ffmpeg.inspect(clip), recipe.model_copy(update={"skip_codecs": ()}))
        assert refusal is not None
        assert refusal.reason == reason
        return
    source, result, target = encoded(clip, tmp_path, recipe)
    assert skip(source, recipe.model_copy(update={"skip_codecs": ()})) is None
    assert structural_faults(source, result, recipe) == ""
    assert ffmpeg.decode(target, result).frames == source.frames


@pytest.mark.parametrize("name", ["plain", "two audio streams", "odd size", "HDR10", "HDR10 with its display"])
@pytest.mark.parametrize("recipe", ["HEVC in MP4", "AV1 in MP4", "VP9 in MP4", "VP9 in WebM"])
def test_each_codec_serves_in_each_container_that_holds_it(
    make_clip: MakeClip, tmp_path: Path, name: str, recipe: str
) -> None:
    wanted = RECIPES[recipe]
    source, result, _ = encoded(made(make_clip, name), tmp_path, wanted)
    assert structural_faults(source, result, wanted) == ""
    assert result.profile in ("Main", "Main 10", "Profile 0", "Profile 2")  # 4:2:0, which players take


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.endswith("MP4")])
def test_an_mp4_begins_with_its_index_and_names_its_codec_as_players_ask(
    make_clip: MakeClip, tmp_path: Path, recipe: str
) -> None:
    _, result, target = encoded(made(make_clip, "plain"), tmp_path, RECIPES[recipe])
    boxes = target.read_bytes()
    assert 0 < boxes.index(b"moov") < boxes.index(b"mdat")
    assert result.index_first
    assert result.codec_tag == {"h264": "avc1", "hevc": "hvc1", "av1": "av01", "vp9": "vp09"}[result.codec]
    assert result.codec_tag.encode() in boxes


@pytest.mark.parametrize(
    ("container", "sound", "kept"),
    [("mp4", "aac", True), ("mp4", "libmp3lame", True), ("mp4", "ac3", False), ("webm", "aac", False)],
)
def test_sound_that_plays_in_the_container_is_copied_bit_by_bit(
    make_clip: MakeClip, tmp_path: Path, container: str, sound: str, kept: bool
) -> None:
    recipe = H264 if container == "mp4" else AV1
    clip = make_clip(sound=sound)
    source, result, target = encoded(clip, tmp_path, recipe)
    assert structural_faults(source, result, recipe) == ""
    assert result.audio[0].codec == (source.audio[0].codec if kept else "opus")
    sounds = []
    for number, file in enumerate((clip, target)):
        copy = tmp_path / f"{number}.txt"
        tool("-i", str(file), "-map", "0:a", "-c", "copy", "-f", "framemd5", str(copy))
        sounds.append([line.split(",")[-1] for line in copy.read_text().splitlines() if not line.startswith("#")])
    assert (sounds[0] == sounds[1]) is kept


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
def test_a_source_with_features_that_a_result_would_lose_is_refused_before_and_after_the_encode(
    make_clip: MakeClip, tmp_path: Path, name: str
) -> None:
    kind, early, late = LOST[name]
    odd = {"size": "128x96"} | kind
    order = odd.pop("order", "")
    source = make_clip(*(part.format(order=order) for part in odd.pop("options", ())), **odd)
    media, result, _ = encoded(source, tmp_path)
    refusal = skip(media, AV1.model_copy(update={"skip_codecs": ()}))
    assert refusal is not None
    assert (refusal.rule, refusal.permanent) == (early, True)
    faults = accept(replace(media, size_bytes=10**9), result, perfect(media), AV1, Acceptance())
    assert faults is not None
    assert faults.rule == late, faults.reason


CAPTION = bytes.fromhex("b50031") + b"GA94" + bytes.fromhex("03c2fffc942cfcc869ff")  # ATSC A/53, part 4, 6.2.3


def captioned(make_clip: MakeClip, tmp_path: Path) -> Path:
    """A clip with closed captions in each of its pictures, as TV has them."""
    plain = str(make_clip(codec="libx264 -crf 10 -bf 0", audio=""))
    units = tool("-i", plain, "-c", "copy", "-bsf:v", "h264_mp4toannexb", str(tmp_path / "plain.h264")).read_bytes()
    sei = b"\0\0\1\x06\x04" + bytes([len(CAPTION)]) + CAPTION + b"\x80"
    (raw := tmp_path / "captions.h264").write_bytes(
        b"".join((sei if unit[0] & 31 in (1, 5) else b"") + b"\0\0\1" + unit for unit in units.split(b"\0\0\1")[1:])
    )
    return tool("-r", "24", "-i", str(raw), "-c", "copy", str(tmp_path / "captions.mp4"))


def test_captions_in_the_picture_are_kept_or_the_clip_stays_as_it_is(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = captioned(make_clip, tmp_path)
    source, result, _ = encoded(clip, tmp_path, H264)
    assert skip(source, H264) is None
    assert structural_faults(source, result, H264) == ""
    for recipe in (HEVC, AV1, VP9):
        refusal = skip(source, recipe)
        assert refusal is not None
        assert refusal.rule == "side_data"
        _, without, _ = encoded(clip, tmp_path, recipe)
        lost = accept(replace(source, size_bytes=10**9), without, perfect(source), recipe, Acceptance())
        assert lost is not None
        assert lost.rule == "side_data"


def test_stereo_that_only_the_picture_tells_of_is_left_as_it_is(make_clip: MakeClip) -> None:
    refusal = skip(ffmpeg.inspect(make_clip(codec="libx264 -crf 10 -x264-params frame-packing=3")), H264)
    assert refusal is not None
    assert refusal.rule == "side_data"


def test_a_clip_rotated_by_an_odd_angle_is_refused(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = str(make_clip(size="96x64"))
    turned = tool("-display_rotation", "45", "-i", clip, "-c", "copy", str(tmp_path / "turned.mp4"))
    refusal = skip(ffmpeg.inspect(turned), AV1)
    assert refusal is not None
    assert refusal.rule == "side_data"


@pytest.mark.parametrize("layout", ["2.1", "4.0", "3.1"])
def test_sound_that_opus_would_mix_into_another_layout_is_left_as_it_is(make_clip: MakeClip, layout: str) -> None:
    refusal = skip(ffmpeg.inspect(make_clip(audio=layout, sound="aac")), AV1)
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


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_frame_of_an_uneven_rate_keeps_its_time(make_clip: MakeClip, tmp_path: Path, recipe: str) -> None:
    uneven = ("-vf", r"settb=1/90000,setpts=PTS+mod(N\,3)*0.01/TB", "-enc_time_base", "1:90000")
    source = make_clip(*uneven, "-fps_mode", "passthrough")
    before = times(source, tmp_path / "before.txt")
    after = times(encoded(source, tmp_path, RECIPES[recipe])[2], tmp_path / "after.txt")
    assert [round(1000 * at) for at in before] == list(ffmpeg.inspect(source).shown_at_ms)
    assert len({round(later - earlier, 3) for earlier, later in pairwise(before)}) > 1
    assert after == pytest.approx(before, abs=0.001)  # WebM counts in milliseconds


def test_subtitles_are_kept(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = with_subtitles(make_clip(), "1\n00:00:00,000 --> 00:00:00,400\nhello\n", tmp_path / "sub.mp4", "mov_text")
    for recipe, codec in ((AV1, "webvtt"), (H264, "mov_text")):
        source, result, _ = encoded(clip, tmp_path, recipe)
        assert [s.codec for s in result.subtitles] == [codec]
        assert structural_faults(source, result, recipe) == ""


def with_subtitles(clip: Path, text: str, target: Path, codec: str) -> Path:
    """Add subtitles, written as SRT, to a clip."""
    written = target.with_suffix(".srt")
    written.write_text(text)
    merged = ["-i", str(written), "-map", "0", "-map", "1", "-c", "copy", "-c:s", codec]
    return tool("-i", str(clip), *merged, str(target))


AT_ONCE = "1\n00:00:00,100 --> 00:00:00,450\nlong\n\n2\n00:00:00,200 --> 00:00:00,300\nshort\n"
WITH_A_PAUSE = "1\n00:00:00,100 --> 00:00:00,200\n<u>a</u> b\n\n2\n00:00:00,300 --> 00:00:00,450\nc\n"


def test_subtitles_of_which_a_result_would_show_less_keep_a_video_as_it_is(make_clip: MakeClip, tmp_path: Path) -> None:
    """MP4 shows one at a time: of two that overlap, the first would end with the beginning of the second."""
    two = with_subtitles(make_clip(), AT_ONCE, tmp_path / "two.mkv", "srt")
    source, result, _ = encoded(two, tmp_path, H264)
    assert source.subtitles[0].cues_ms == ((100, 450), (200, 300))
    refusal = accept(replace(source, size_bytes=10**9), result, perfect(source), H264, Acceptance())
    assert refusal is not None
    assert refusal.rule == "subtitles"
    assert structural_faults(*encoded(two, tmp_path, AV1)[:2]) == ""
    styled = skip(ffmpeg.inspect(with_subtitles(make_clip(), AT_ONCE, tmp_path / "styled.mkv", "ass")), H264)
    assert styled is not None
    assert styled.rule == "picture_subtitles"


def test_subtitles_in_the_format_of_the_result_are_copied_bit_by_bit(make_clip: MakeClip, tmp_path: Path) -> None:
    texts = []
    clip = with_subtitles(make_clip(), WITH_A_PAUSE, tmp_path / "in.mp4", "mov_text")
    source, result, target = encoded(clip, tmp_path, H264)
    for file in (clip, target):
        text = tool("-i", str(file), "-map", "0:s", "-c", "copy", "-f", "data", str(tmp_path / f"{file.stem}.bin"))
        texts.append(text.read_bytes())
    assert texts[0] == texts[1] != b""
    assert source.subtitles[0].cues_ms == result.subtitles[0].cues_ms == ((100, 200), (300, 450))
    assert structural_faults(source, result, H264) == ""


def test_cover_and_timecode_do_not_break_an_encode(make_clip: MakeClip, tmp_path: Path) -> None:
    cover = tool("-f", "lavfi", "-i", "color=s=32x32", "-frames:v", "1", str(tmp_path / "cover.png"))
    merged = ["-i", str(cover), "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic"]
    odd = tool("-i", str(make_clip()), *merged, "-timecode", "01:00:00:00", str(tmp_path / "odd.mp4"))
    source, result, _ = encoded(odd, tmp_path)
    assert source.streams > result.streams == 2
    assert structural_faults(source, result) == ""


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("more", [{}, {"workflow": '{"nodes": [1]}'}], ids=["iTunes' tags", "ComfyUI's tags"])
def test_tags_and_creation_time_are_kept(
    make_clip: MakeClip, tmp_path: Path, recipe: str, more: dict[str, str]
) -> None:
    tags = {"comment": "a fox; in 'snow' = 雪", "title": "fox"} | more
    given = tags | {"creation_time": "2026-01-02T03:04:05.000000Z"}
    options = [part for name, value in given.items() for part in ("-metadata", f"{name}={value}")]
    flags = ("-movflags", "use_metadata_tags") if more else ()
    tagged = tool("-i", str(make_clip()), "-c", "copy", *options, *flags, str(tmp_path / "tagged.mp4"))
    source, result, _ = encoded(tagged, tmp_path, RECIPES[recipe])
    assert result.creation_time == "2026-01-02T03:04:05.000000Z"
    assert dict(source.tags) == dict(result.tags) == tags
    assert structural_faults(source, result, RECIPES[recipe]) == ""


def test_opus_is_copied_as_it_is(make_clip: MakeClip, tmp_path: Path) -> None:
    source = make_clip(sound="libopus -b:a 40k", suffix="mkv")
    _, _, target = encoded(source, tmp_path)
    sounds = [
        tool("-i", str(f), "-map", "0:a", "-c", "copy", str(tmp_path / f"{f.stem}.ogg")) for f in (source, target)
    ]
    assert ffmpeg.inspect(source).audio[0].codec == "opus"
    assert abs(sounds[0].stat().st_size - sounds[1].stat().st_size) < 300


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_source_gives_the_same_bytes(tiny_clip: Path, tmp_path: Path, recipe: str) -> None:
    first, second = (encoded(tiny_clip, tmp_path, RECIPES[recipe])[2].read_bytes() for _ in range(2))
    assert first == second


@pytest.mark.long
def test_an_encode_that_outgrows_its_source_is_ended(make_clip: MakeClip, tmp_path: Path) -> None:
    noisy = make_clip(draw="life", size="640x360", seconds=8, audio="", codec="libx264 -preset ultrafast")
    media, target = ffmpeg.inspect(noisy), tmp_path / "out.webm"
    result = ffmpeg.encode(noisy, target, media, ffmpeg.Encoding("av1", preset=10, crf=20), most_bytes=50_000)
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
        ffmpeg.encode(broken, tmp_path / "out.webm", media, ffmpeg.Encoding("av1", preset=10, crf=30))
    assert [path.name for path in tmp_path.iterdir()] == ["broken.mp4"]
