"""The promise on whole natural clips: dense ones lose at least 60 % of their bytes, lean ones never grow."""

import re
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters import ffmpeg
from reelkeeper.model import Refusal, Transcode
from tests.clips import NATURAL, cut, tool
from tests.reading import as_read
from tests.shrinking import shrink


def outcomes(folder: Path, encoder: str) -> dict[str, tuple[Path, Transcode | Refusal]]:
    clips = {name: cut(name, folder / f"{name}.mp4", encoder=encoder) for name in NATURAL}
    results = {name: (clip, shrink(clip, folder)) for name, clip in clips.items()}
    for name, (clip, outcome) in results.items():
        size = clip.stat().st_size
        if isinstance(outcome, Transcode):
            quality = outcome.quality
            said = f"{outcome.size_bytes / size:.3f} of it, VMAF {quality.mean:.2f} / {quality.p5:.2f}, "
            said += f"CRF {outcome.crf}, {len(outcome.probes)} probes, {outcome.cpu_seconds:.0f} CPU s"
        else:
            said = f"{outcome.rule}: {outcome.reason}"
        print(f"{encoder:24} {name:6} {size:9} bytes -> {said}")  # noqa: T201  the table is part of the result
    return results


def assert_quality(clip: Path, outcome: Transcode) -> None:
    media = ffmpeg.inspect(clip)
    quality, _ = ffmpeg.measure(Path(outcome.path), clip, media)
    assert (quality.frames, quality.subsample) == (media.frames, 1)
    assert quality.mean >= 93
    assert quality.p5 >= 88
    assert outcome.size_bytes <= 0.9 * clip.stat().st_size


@pytest.mark.long("whole natural clips are encoded at several qualities")
def test_dense_clips_lose_most_of_their_bytes_at_a_quality_measured_anew(tmp_path: Path) -> None:
    results = outcomes(tmp_path, "-preset medium -crf 18")
    accepted = [(clip, outcome) for clip, outcome in results.values() if isinstance(outcome, Transcode)]
    assert len(accepted) == len(NATURAL)
    for clip, outcome in accepted:
        assert_quality(clip, outcome)
    before = sum(clip.stat().st_size for clip, _ in accepted)
    after = sum(outcome.size_bytes for _, outcome in accepted)
    print(f"saved {1 - after / before:.1%} of {before} bytes")  # noqa: T201  the promise, in figures
    assert after <= 0.4 * before


@pytest.mark.long
@pytest.mark.parametrize(
    ("encoder", "accepted"),
    [
        pytest.param("-preset veryfast -crf 23", {"bikes", "city"}, marks=pytest.mark.soak),
        ("-preset veryfast -crf 26", {"city"}),
        pytest.param("-preset veryfast -crf 28", set(), marks=pytest.mark.soak),
    ],
)
def test_lean_clips_shrink_to_the_floor_or_are_refused_with_a_reason(
    encoder: str, accepted: set[str], tmp_path: Path
) -> None:
    results = outcomes(tmp_path, encoder)
    for clip, outcome in results.values():
        if isinstance(outcome, Transcode):
            assert_quality(clip, outcome)
        else:
            size = clip.stat().st_size
            assert outcome.rule == "no_good_result"
            assert all(limit in outcome.reason for limit in ("90 %", "93 (mean)", "88"))
            assert f"{size} bytes" in outcome.reason
            assert f"{size * 9 // 10} bytes" in outcome.reason or "VMAF mean" in outcome.reason
    assert {name for name, (_, outcome) in results.items() if isinstance(outcome, Transcode)} >= accepted


@pytest.mark.long
def test_a_clip_that_only_grows_worse_is_refused_with_what_was_measured(tmp_path: Path) -> None:
    """Grain: its picture is lost before its bytes are."""
    grain = tool(
        *("-f", "lavfi", "-i", "color=gray:s=640x360:r=24:d=2,noise=alls=60:allf=t"),
        *("-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", str(tmp_path / "grain.mp4")),
    )
    outcome = shrink(grain, tmp_path)
    assert isinstance(outcome, Refusal)
    print(outcome.reason)  # noqa: T201  the reason is the result
    assert outcome.rule == "no_good_result"
    assert as_read(outcome.reason, figure=re.compile(r"\d[\d.]*")) == snapshot("""\
no result at most <figure> % of <figure> bytes with VMAF of at least <figure> (mean) and
  <figure> (<figure>th percentile); CRF <figure>: <figure> bytes, VMAF mean <figure>, <figure>th
  percentile <figure>\
""")
