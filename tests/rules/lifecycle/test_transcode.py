"""What is skipped, and what is accepted: each answer with its figures."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.model import Media, Quality, Stream
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe, accept, fingerprint, skip
from reelkeeper.rules.lifecycle.worth import Payback

AUDIO = Stream("audio", "aac", 10.0, 2, "stereo")
SUBTITLES = Stream("subtitle", "mov_text", 9.0, cues_ms=((0, 4_000), (5_000, 9_000)))
SOURCE = Media(
    container="mov",
    codec="h264",
    profile="High",
    width=1280,
    height=720,
    display_aspect=16 / 9,
    pixel_format="yuv420p",
    bit_depth=8,
    has_alpha=False,
    frames=240,
    duration_seconds=10.0,
    start_seconds=0.0,
    video_bits=30_000_000,
    size_bytes=4_000_000,
    color_range="tv",
    color_space="bt709",
    color_primaries="bt709",
    color_transfer="bt709",
    content_credentials=False,
    creation_time=None,
    audio=(AUDIO,),
    subtitles=(SUBTITLES,),
    tags=(("title", "a fox"),),
    shown_at_ms=(0, 42, 83),
)
RESULT = replace(
    SOURCE,
    size_bytes=1_500_000,
    audio=(replace(AUDIO, duration_seconds=10.008),),
    index_first=True,
    codec_tag="avc1",
    shown_at_ms=(0, 42, 85),
)
IN_HEVC = replace(RESULT, codec="hevc", codec_tag="hvc1")
IN_WEBM = replace(RESULT, codec="av1", container="webm", audio=(replace(AUDIO, codec="opus"),))
WEBM = Recipe(codec="av1", container="webm")
QUALITY = Quality("vmaf_v0.6.1", 94.0, 90.0, 85.0, 40.0, 240, 1)


@pytest.mark.parametrize(
    "source",
    [
        SOURCE,
        replace(SOURCE, audio=(replace(AUDIO, channels=3, channel_layout="2.1"),)),  # copied, in any layout
        replace(SOURCE, video_bits=2_000_000),  # few bits a pixel: such clips kept 42 to 71 % of their bytes
        replace(SOURCE, chroma="gray", pixel_format="gray"),
    ],
)
def test_a_source_that_would_lose_nothing_is_not_skipped(source: Media) -> None:
    assert skip(source, Recipe()) is None


@pytest.mark.parametrize(
    ("change", "rule", "figure"),
    [
        ({"codec": "hevc"}, "efficient_codec", "hevc"),
        ({"codec": "av1"}, "efficient_codec", "av1"),
        ({"has_alpha": True, "pixel_format": "yuva444p10le"}, "alpha", "yuva444p10le"),
        ({"chroma": "4:4:4", "pixel_format": "yuv444p"}, "chroma", "yuv444p"),
        ({"chroma": "4:2:2", "pixel_format": "yuv422p10le"}, "chroma", "4:2:2"),
        ({"chroma": "gbrp", "pixel_format": "gbrp"}, "chroma", "gbrp"),
        ({"chroma": "unknown", "pixel_format": ""}, "chroma", "unknown"),
        ({"bit_depth": 12}, "bit_depth", "12"),
        ({"field_order": "tt"}, "interlaced", "tt"),
        ({"field_order": "unknown"}, "interlaced", "unknown"),
        ({"side_data": ("Content light level metadata", "Spherical Mapping")}, "side_data", "Spherical"),
        ({"audio": (replace(AUDIO, codec="ac3", channels=3, channel_layout="2.1"),)}, "audio_layout", "2.1"),
        ({"content_credentials": True}, "content_credentials", "C2PA"),
        ({"video_streams": 2}, "several_videos", "2"),
        ({"subtitles": (Stream("subtitle", "hdmv_pgs_subtitle", 9.0),)}, "picture_subtitles", "hdmv_pgs_subtitle"),
        ({"audio": (replace(AUDIO, codec="flac", channels=16),)}, "channels", "16"),
        ({"audio": (replace(AUDIO, channels=None),)}, "unknown_audio", "aac"),
    ],
)
def test_sources_that_would_lose_something_or_gain_nothing_are_skipped(
    change: dict[str, Any], rule: str, figure: str
) -> None:
    refusal = skip(replace(SOURCE, **change), Recipe())
    assert refusal is not None
    assert (refusal.rule, refusal.permanent) == (rule, True)
    assert figure in refusal.reason


@pytest.mark.parametrize(
    ("source", "result", "recipe"),
    [
        (SOURCE, RESULT, Recipe()),
        (SOURCE, replace(RESULT, color_range=None), Recipe()),  # an unmarked range is the narrow one
        (
            replace(SOURCE, color_range=None, color_space=None, color_primaries=None, color_transfer=None),
            RESULT,
            Recipe(),
        ),
        (replace(SOURCE, chroma="gray", pixel_format="gray"), RESULT, Recipe()),
        (SOURCE, IN_HEVC, Recipe(codec="hevc")),
        (SOURCE, IN_WEBM, WEBM),
    ],
)
def test_a_result_that_keeps_everything_is_accepted(source: Media, result: Media, recipe: Recipe) -> None:
    assert accept(source, result, QUALITY, recipe, Acceptance()) is None


@pytest.mark.parametrize(
    ("change", "rule", "figure"),
    [
        ({"codec": "vp9"}, "codec", "vp9"),
        ({"container": "webm"}, "codec", "webm"),
        ({"index_first": False}, "index_first", "moov"),
        ({"tags": ()}, "tags", "title"),
        ({"tags": (("title", "a hare"),)}, "tags", "title"),
        ({"video_streams": 2}, "codec", "2 x h264"),
        ({"frames": 239}, "frames", "239"),
        ({"duration_seconds": 9.9}, "duration", "9.900"),
        ({"duration_seconds": float("nan")}, "duration", "nan"),
        ({"shown_at_ms": (0, 45, 83)}, "timing", "3 ms"),
        ({"width": 1278}, "display_size", "1278x720"),
        ({"display_aspect": 1.7}, "aspect", "1.7000"),
        ({"bit_depth": 10}, "bit_depth", "10"),
        ({"chroma": "4:4:4"}, "chroma", "4:4:4"),
        ({"field_order": "tt"}, "field_order", "tt"),
        ({"color_transfer": "smpte2084"}, "color_transfer", "smpte2084"),
        ({"color_range": "pc"}, "color_range", "pc"),
        ({"audio": ()}, "audio", "0"),
        ({"subtitles": ()}, "subtitles", "0"),
        ({"subtitles": (replace(SUBTITLES, cues_ms=((0, 3_900), (5_000, 9_000))),)}, "subtitles", "1"),
        ({"subtitles": (replace(SUBTITLES, cues_ms=((0, 4_000),)),)}, "subtitles", "1"),
        ({"audio": (replace(AUDIO, codec="opus"),)}, "audio", "aac"),
        ({"audio": (replace(AUDIO, channels=1),)}, "audio", "1"),
        ({"audio": (replace(AUDIO, duration_seconds=9.9),)}, "audio_duration", "9.900"),
        ({"audio": (replace(AUDIO, duration_seconds=None),)}, "audio_duration", "None"),
        ({"audio": (replace(AUDIO, start_seconds=0.2),)}, "audio_sync", "+0.200"),
        ({"size_bytes": 3_600_001}, "size", "3600000"),
        ({"size_bytes": 0}, "size", "0"),
    ],
)
def test_a_result_with_any_fault_is_refused(change: dict[str, Any], rule: str, figure: str) -> None:
    refusal = accept(SOURCE, replace(RESULT, **change), QUALITY, Recipe(), Acceptance())
    assert refusal is not None
    assert refusal.rule == rule
    assert figure in refusal.reason


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"mean": 92.99}, "quality"),
        ({"p5": 87.99}, "quality"),
        ({"mean": float("nan")}, "quality"),
        ({"chroma_db": 31.99}, "colour"),
        ({"chroma_db": float("nan")}, "colour"),
        ({"frames": 239}, "not_verified"),
        ({"frames": 80, "subsample": 3}, "not_verified"),
        ({"frames": 240, "subsample": 3}, "not_verified"),
    ],
)
def test_quality_below_the_floor_or_not_of_every_frame_is_refused(change: dict[str, Any], rule: str) -> None:
    refusal = accept(SOURCE, RESULT, replace(QUALITY, **change), Recipe(), Acceptance())
    assert refusal is not None
    assert refusal.rule == rule


@pytest.mark.parametrize(
    ("source", "result", "recipe", "rule"),
    [
        (replace(SOURCE, chroma="4:2:2"), RESULT, Recipe(), "chroma"),
        (replace(SOURCE, chroma="4:4:4"), RESULT, Recipe(), "chroma"),
        (replace(SOURCE, field_order="bb"), RESULT, Recipe(), "field_order"),
        (replace(SOURCE, bit_depth=12), RESULT, Recipe(), "bit_depth"),
        (replace(SOURCE, side_data=("Mastering display metadata",)), RESULT, Recipe(), "side_data"),
        (replace(SOURCE, color_range="pc"), replace(RESULT, color_range=None), Recipe(), "color_range"),
        (SOURCE, replace(IN_HEVC, codec_tag="hev1"), Recipe(codec="hevc"), "codec_tag"),  # Apple would not play it
        (SOURCE, replace(IN_WEBM, audio=(AUDIO,)), WEBM, "audio"),  # WebM has no AAC
    ],
)
def test_a_result_that_lacks_something_of_its_source_is_refused(
    source: Media, result: Media, recipe: Recipe, rule: str
) -> None:
    """Whatever made it: what an encoder can hold is not asked, what it has stored is."""
    refusal = accept(source, result, QUALITY, recipe, Acceptance())
    assert refusal is not None
    assert refusal.rule == rule


def test_every_fault_is_named_at_once() -> None:
    refusal = accept(SOURCE, replace(RESULT, frames=1, audio=()), QUALITY, Recipe(), Acceptance())
    assert refusal is not None
    assert refusal.reason == snapshot("1 frames, the source has 240; 0 audio streams, the source has 1")


def test_a_change_of_recipe_acceptance_or_encoder_changes_the_fingerprint() -> None:
    marks = {
        fingerprint(Recipe(), Acceptance(), "libsvtav1 4.2.0"),
        fingerprint(Recipe(), Acceptance(), "libsvtav1 4.2.1"),
        fingerprint(Recipe(preset=5), Acceptance(), "libsvtav1 4.2.0"),
        fingerprint(Recipe(), Acceptance(min_vmaf_mean=94), "libsvtav1 4.2.0"),
        fingerprint(Recipe(payback=Payback(cpu_usd_per_hour=Decimal("0.02"))), Acceptance(), "libsvtav1 4.2.0"),
    }
    assert len(marks) == 5
    assert fingerprint(Recipe(), Acceptance(), "x") == fingerprint(Recipe(), Acceptance(), "x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"crf_start": 60},
        {"codec": "hevc", "container": "webm"},
        {"codec": "mpeg4"},
        {"fast": 1},
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(wrong)
