"""A video is replaced only by a provably equal, smaller one, and the stored result is checked to its last frame."""

import random
import re
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import IntegrityDoubt, LeaseLost, MediaError, MediaTimeout, NotAVideo
from reelkeeper.model import CrfSearch, Media, Quality, Refusal, Transcode
from reelkeeper.operations.lifecycle.transcode import Permit
from reelkeeper.operations.videos.intents import verify_stored
from reelkeeper.rules.lifecycle.first_crf import kept_share, lesson
from reelkeeper.rules.lifecycle.transcode import (
    RETRIED_MONTHLY,
    Acceptance,
    Recipe,
    accept,
    bits_per_pixel,
    fingerprint,
)
from reelkeeper.rules.lifecycle.worth import (
    EXPECTED_PROBES,
    MOST_MICROUSD_TO_LEARN,
    REQUESTS_USD,
    Payback,
    Stay,
    at_presets,
    choose,
)
from tests.clips import MakeClip, tool
from tests.shrinking import AT_ANY_PRICE, shrink


@dataclass(frozen=True)
class Announced:
    sha256: str
    size_bytes: int
    codec: str
    frames: int
    duration_seconds: float


def announced(result: Transcode) -> Announced:
    media = result.media
    return Announced(result.sha256, result.size_bytes, media.codec, media.frames, media.duration_seconds)


def claimed(path: Path, truth: Announced) -> Announced:
    """As if these very bytes had been announced, so that only their content can give them away."""
    data = path.read_bytes()
    return replace(truth, sha256=sha256(data).hexdigest(), size_bytes=len(data))


@pytest.fixture(scope="module")
def source(make_clip: MakeClip) -> Path:
    return make_clip(size="160x96", seconds=2)


@pytest.fixture(scope="module")
def result(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Transcode:
    outcome = shrink(source, tmp_path_factory.mktemp("result"))
    assert isinstance(outcome, Transcode), outcome
    return outcome


@pytest.mark.long
def test_a_natural_clip_shrinks_and_keeps_its_quality(natural_clips: dict[str, Path], tmp_path: Path) -> None:
    outcome = shrink(natural_clips["bikes"], tmp_path)
    assert isinstance(outcome, Transcode)
    again, _ = ffmpeg.measure(Path(outcome.path), natural_clips["bikes"], ffmpeg.inspect(natural_clips["bikes"]))
    assert again == outcome.quality
    assert again.mean >= 93
    assert again.p5 >= 88
    assert outcome.size_bytes <= 0.9 * natural_clips["bikes"].stat().st_size
    assert 1 <= len(outcome.probes) <= 4
    assert outcome.cpu_seconds > 0
    verify_stored(Path(outcome.path), announced(outcome))


@pytest.mark.long
def test_a_search_starts_from_the_results_of_earlier_ones(natural_clips: dict[str, Path], tmp_path: Path) -> None:
    searches: list[CrfSearch] = []
    recipe = AT_ANY_PRICE.model_copy(update={"codec": "av1"})  # whose CRF at the floor is anybody's guess
    assert isinstance(shrink(natural_clips["city"], tmp_path, recipe, note=searches.append), Transcode)
    learnt = lesson(searches[0], "fox", recipe, Acceptance())
    assert learnt is not None
    assert learnt.floor_crf > 48  # 44 is the prior
    known: dict[str, Any] = {"model": "fox", "lessons": [learnt]}
    outcome = shrink(natural_clips["city"], tmp_path, recipe, note=searches.append, **known)
    assert isinstance(outcome, Transcode)
    cold, warm = searches
    assert abs(warm.probes[0][0] - learnt.floor_crf) <= 1
    assert len(warm.probes) < len(cold.probes)
    assert warm.cpu_seconds < cold.cpu_seconds
    assert (warm.outcome, warm.kept_bytes, warm.encoder) == ("accepted", outcome.size_bytes, outcome.encoder)


@pytest.mark.long
def test_a_result_chosen_by_every_third_frame_is_accepted_by_all_frames(make_clip: MakeClip, tmp_path: Path) -> None:
    long = make_clip(size="64x64", seconds=5.5)
    outcome = shrink(long, tmp_path)
    assert isinstance(outcome, Transcode)
    assert (outcome.quality.subsample, outcome.quality.frames) == (1, 132)
    full, _ = ffmpeg.measure(Path(outcome.path), long, ffmpeg.inspect(long))
    assert full == outcome.quality


def test_vp9_shrinks_too(source: Path, tmp_path: Path) -> None:
    outcome = shrink(source, tmp_path, AT_ANY_PRICE.model_copy(update={"codec": "vp9", "crf_start": 40}))
    assert isinstance(outcome, Transcode), outcome
    assert outcome.media.codec == "vp9"


def test_only_the_result_is_left_in_the_scratch_folder(source: Path, tmp_path: Path) -> None:
    outcome = shrink(source, tmp_path)
    assert isinstance(outcome, Transcode)
    assert [str(path) for path in tmp_path.iterdir()] == [outcome.path]
    assert outcome.sha256 == sha256(Path(outcome.path).read_bytes()).hexdigest()


def test_a_refusal_names_the_recipe_and_every_probe_and_is_recorded(make_clip: MakeClip, tmp_path: Path) -> None:
    dense = make_clip(size="160x96", seconds=1, codec="libx264 -preset veryslow -crf 36", audio="")
    recipe, searches = AT_ANY_PRICE.model_copy(update={"crf_start": 32}), list[CrfSearch]()
    outcome = shrink(dense, tmp_path, recipe, note=searches.append)
    assert isinstance(outcome, Refusal), outcome
    (search,) = searches
    assert (outcome.rule, search.outcome, search.kept_bytes) == (*["no_good_result"] * 2, search.source_bytes)
    assert search.probes
    assert search.cpu_seconds > 0
    assert "CRF 32: " in outcome.reason
    assert outcome.recipe == fingerprint(recipe, Acceptance(), ffmpeg.tools().encoder("h264"))
    assert not list(tmp_path.iterdir())


def test_an_efficient_codec_is_left_alone(make_clip: MakeClip, tmp_path: Path) -> None:
    outcome = shrink(make_clip(codec="libsvtav1 -preset 12"), tmp_path)
    assert isinstance(outcome, Refusal)
    assert outcome.rule == "efficient_codec"


def test_an_encode_that_does_not_pay_is_not_begun(source: Path, tmp_path: Path) -> None:
    recipe = Recipe(payback=Payback(cpu_usd_per_hour=Decimal("0.05")))
    outcome = shrink(source, tmp_path, recipe, stay=Stay(3))
    assert isinstance(outcome, Refusal)
    assert outcome.rule == "payback"
    assert "for 3 days" in outcome.reason


@pytest.mark.parametrize(("pace", "is_begun"), [(1.0, True), (30.0, False)])
def test_an_encode_that_would_not_pay_on_so_slow_a_machine_is_not_begun(
    source: Path, tmp_path: Path, pace: float, is_begun: bool
) -> None:
    recipe = Recipe(payback=Payback(cpu_usd_per_hour=Decimal("0.004")))
    outcome = shrink(source, tmp_path, recipe, stay=Stay(300), pace=pace)
    assert isinstance(outcome, Transcode) == is_begun
    assert is_begun or (isinstance(outcome, Refusal) and outcome.rule == "payback")


def test_a_slow_machine_takes_a_quicker_preset(source: Path, tmp_path: Path) -> None:
    recipe = Recipe(payback=Payback(cpu_usd_per_hour=Decimal("0.004")))
    searches = list[CrfSearch]()
    for pace in (1.0, 3.0):
        shrink(source, tmp_path, recipe, stay=Stay(300), pace=pace, note=searches.append)
    assert [search.preset for search in searches] == [6, 5]


def test_one_that_would_pay_with_luck_alone_is_not_begun(source: Path, tmp_path: Path) -> None:
    """Not if it keeps a third more than is expected of it, and takes an encode more."""
    payback, media = Payback(horizon_days=10**6), ffmpeg.inspect(source)
    kept = kept_share([], None, "h264", 0.35, bits_per_pixel(media)).share

    def pays(days: int) -> bool:
        worths = at_presets(media, "h264", Recipe().presets, kept, payback, Stay(days))
        return worths[choose(worths, "h264")].pays

    days = next(days for days in range(10, 10**6, 10) if pays(days))
    outcome = shrink(source, tmp_path, Recipe(payback=payback), stay=Stay(days))
    assert isinstance(outcome, Refusal)
    assert outcome.rule == "payback"


@pytest.mark.parametrize(("usd_per_hour", "is_begun"), [("0.04", True), ("400", False)])
def test_one_that_is_tried_to_learn_is_begun_unless_it_turns_out_to_cost_too_much(
    source: Path, tmp_path: Path, usd_per_hour: str, is_begun: bool
) -> None:
    recipe = Recipe(payback=Payback(cpu_usd_per_hour=Decimal(usd_per_hour)))
    outcome = shrink(source, tmp_path, recipe, stay=Stay(3), to_learn=True)
    assert isinstance(outcome, Transcode) == is_begun


def test_one_that_is_tried_to_learn_ends_where_another_encode_would_cost_too_much(source: Path, tmp_path: Path) -> None:
    """It is begun at a price at which two and a half encodes of its pixels may cost that: this clip's take longer."""
    media, searches = ffmpeg.inspect(source), list[CrfSearch]()
    worths = at_presets(media, "h264", Recipe().presets, 0.35, Payback(), Stay(3), probes=EXPECTED_PROBES + 1)
    seconds = max(worth.cpu_seconds for worth in worths.values())
    price = Decimal(f"{0.99 * (MOST_MICROUSD_TO_LEARN / 1e6 - REQUESTS_USD) / seconds * 3600:.4f}")
    recipe = Recipe(payback=Payback(cpu_usd_per_hour=price), crf_start=20)
    outcome = shrink(source, tmp_path, recipe, stay=Stay(3), to_learn=True, note=searches.append)
    assert isinstance(outcome, Transcode)
    assert [len(search.probes) for search in searches] == [1]


def test_a_search_that_may_cost_no_more_today_ends_and_is_not_remembered_as_hopeless(
    source: Path, tmp_path: Path
) -> None:
    noted: list[CrfSearch] = []
    outcome = shrink(source, tmp_path, permit=Permit(affords=lambda _: False), note=noted.append)
    assert isinstance(outcome, Refusal)
    assert (outcome.rule, outcome.permanent) == ("day_is_spent", False)
    assert not noted  # nothing was encoded, so nothing was learnt


@pytest.mark.long
def test_a_result_found_before_the_days_dollars_ran_out_is_kept(source: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def once(microusd: int) -> bool:
        asked.append(microusd)
        return len(asked) == 1

    outcome = shrink(source, tmp_path, AT_ANY_PRICE.model_copy(update={"crf_start": 20}), permit=Permit(affords=once))
    assert isinstance(outcome, Transcode)
    assert (outcome.crf, len(asked)) == (20, 2)


@pytest.mark.long
def test_losing_the_lease_ends_the_encode(natural_clips: dict[str, Path], tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLost("another run has it")

    with pytest.raises(LeaseLost):
        shrink(natural_clips["bunny"], tmp_path, permit=Permit(check=lost))
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_time_limit_is_no_lasting_refusal(
    natural_clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[ffmpeg.encode.__module__], "wall_seconds", lambda _: 0.5)
    with pytest.raises(MediaTimeout):
        shrink(natural_clips["bunny"], tmp_path)
    with pytest.raises(MediaTimeout):
        shrink(natural_clips["bunny"], tmp_path, failures=1)
    outcome = shrink(natural_clips["bunny"], tmp_path, failures=2)
    assert isinstance(outcome, Refusal)
    assert (outcome.rule, outcome.permanent) == ("too_slow", True)
    assert re.sub(r"^\S+", "TOOL", outcome.reason) == snapshot(
        "TOOL ran longer than its limit of 0 s, as in 2 earlier runs"
    )


@pytest.mark.long
def test_an_encode_that_is_killed_in_a_third_run_is_left_for_the_month(
    natural_clips: dict[str, Path], tmp_path: Path
) -> None:
    """As one that needs more memory than there is: each night's encode would be paid and lost."""

    def kill() -> None:
        for child in psutil.Process().children(recursive=True):
            if child.name().startswith("ffmpeg"):
                child.kill()

    for failures in (0, 1):
        with pytest.raises(MediaError):
            shrink(natural_clips["bunny"], tmp_path, permit=Permit(check=kill), failures=failures)
    outcome = shrink(natural_clips["bunny"], tmp_path, permit=Permit(check=kill), failures=2)
    assert isinstance(outcome, Refusal)
    assert (outcome.rule, outcome.permanent, outcome.rule in RETRIED_MONTHLY) == ("killed", True, True)


def test_an_object_stored_as_announced_passes(result: Transcode) -> None:
    verify_stored(Path(result.path), announced(result))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_picture_that_begins_after_its_sound_is_stored_as_announced(
    source: Path, tmp_path: Path, suffix: str
) -> None:
    maps = ("-map", "0:v", "-map", "1:a", "-c", "copy")
    late = tool("-itsoffset", "0.7", "-i", str(source), "-i", str(source), *maps, str(tmp_path / f"late.{suffix}"))
    assert ffmpeg.inspect(late).start_seconds == pytest.approx(0.7, abs=0.001)
    outcome = shrink(late, tmp_path)
    assert isinstance(outcome, Transcode), outcome
    verify_stored(Path(outcome.path), announced(outcome))


UNSTATED: dict[str, tuple[dict[str, Any], tuple[str, ...], float]] = {
    "recorded by a browser": ({"codec": "libvpx-vp9 -deadline realtime", "suffix": "webm", "sound": "libopus"},
                              ("-live", "1"), 0.5),
    "with a pause": ({"seconds": 3}, ("-vf", "select='not(between(n,12,59))'", "-fps_mode", "vfr"), 3.0),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSTATED)
def test_a_video_lasts_as_long_as_its_frames_whatever_its_container_states(make_clip: MakeClip, name: str) -> None:
    about, options, seconds = UNSTATED[name]
    clip = make_clip(*options, **about)
    media = ffmpeg.inspect(clip)
    assert media.duration_seconds == pytest.approx(seconds, abs=0.05)
    digest = sha256(clip.read_bytes()).hexdigest()
    verify_stored(clip, Announced(digest, media.size_bytes, media.codec, media.frames, media.duration_seconds))


@pytest.mark.parametrize("percent", range(1, 100, 5))
def test_a_truncated_object_is_refused(result: Transcode, tmp_path: Path, percent: int) -> None:
    data, broken = Path(result.path).read_bytes(), tmp_path / "broken.mp4"
    broken.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(IntegrityDoubt):
        verify_stored(broken, announced(result))
    with pytest.raises((IntegrityDoubt, NotAVideo)):  # and even if its checksum had been taken of the broken file
        verify_stored(broken, claimed(broken, announced(result)))


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_is_refused(result: Transcode, tmp_path: Path, seed: int) -> None:
    data, broken = bytearray(Path(result.path).read_bytes()), tmp_path / "broken.mp4"
    data[random.Random(seed).randrange(len(data))] ^= 1 << seed % 8
    broken.write_bytes(data)
    with pytest.raises(IntegrityDoubt):
        verify_stored(broken, announced(result))


@pytest.mark.long
def test_another_video_in_its_place_is_refused(result: Transcode, make_clip: MakeClip, tmp_path: Path) -> None:
    for seconds in (0.5, 1, 1.5, 2.5, 3):
        other = shrink(make_clip(size="160x96", seconds=seconds), tmp_path)
        assert isinstance(other, Transcode)
        with pytest.raises(IntegrityDoubt):
            verify_stored(Path(other.path), announced(result))
        with pytest.raises(IntegrityDoubt):
            verify_stored(Path(other.path), claimed(Path(other.path), announced(result)))


DOCTORED = {
    "lost audio": (["-c", "copy", "-an"], "audio"),
    "lost audio channel": (["-c:v", "copy", "-c:a", "libopus", "-ac", "1"], "audio"),
    "half of the audio": (["-c:v", "copy", "-c:a", "libopus", "-af", "atrim=0:1"], "audio_duration"),
    "late audio": (["-c:v", "copy", "-c:a", "libopus", "-af", "adelay=400:all=1"], "audio_duration"),
    "a frame missing": (["-vf", "select='not(eq(n,20))'", "-fps_mode", "passthrough", "-c:a", "copy"], "frames"),
    "a frame twice": (["-vf", "tpad=start=1", "-c:a", "copy"], "frames"),
    "slower": (["-vf", "setpts=1.2*PTS", "-fps_mode", "passthrough", "-c:a", "copy"], "duration"),
    "one frame late": (
        [
            "-vf",
            "setpts=PTS+eq(N\\,20)*0.02/TB",
            "-fps_mode",
            "passthrough",
            "-enc_time_base",
            "1:1000",
            "-c:a",
            "copy",
        ],
        "timing",
    ),
    "smaller": (["-vf", "scale=80:48", "-c:a", "copy"], "display_size"),
    "stretched": (["-aspect", "2.5", "-c:a", "copy"], "aspect"),
    "more bits": (["-pix_fmt", "yuv420p10le", "-c:a", "copy"], "bit_depth"),
    "wrong codec": (["-c:v", "libvpx", "-c:a", "copy"], "codec"),
    "wrong container": (["-c", "copy", "-f", "mp4"], "codec"),
    "other colours": (["-colorspace", "smpte240m", "-c:a", "copy"], "color_space"),
}


LENIENT = Acceptance(min_vmaf_mean=0, min_vmaf_p5=0, min_chroma_db=0, max_size_percent=99)


AV1 = Recipe(codec="av1", container="webm")


@dataclass(frozen=True)
class Pair:
    """A source in set colours and a good result of it, which passes."""

    source: Media
    good: Path
    quality: Quality


@pytest.fixture(scope="module")
def pair(make_clip: MakeClip, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    coloured = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    source, good = make_clip(*coloured, size="160x96", seconds=2), tmp_path_factory.mktemp("pair") / "good.webm"
    media = ffmpeg.inspect(source)
    ffmpeg.encode(source, good, media, ffmpeg.Encoding("av1", preset=10, crf=45, container="webm"))
    quality, _ = ffmpeg.measure(good, source, media)
    assert accept(media, ffmpeg.inspect(good), quality, AV1, LENIENT) is None
    return Pair(media, good, quality)


@pytest.mark.long
@pytest.mark.parametrize("fault", DOCTORED)
def test_a_result_that_is_not_the_same_video_is_not_accepted(pair: Pair, tmp_path: Path, fault: str) -> None:
    """Really encoded so, not only claimed."""
    options, rule = DOCTORED[fault]
    encoder = [] if {"-c", "-c:v"} & set(options) else ["-c:v", "libsvtav1", "-preset", "10", "-crf", "50"]
    doctored = tool("-i", str(pair.good), *encoder, *options, str(tmp_path / "doctored.webm"))
    refusal = accept(pair.source, ffmpeg.inspect(doctored), pair.quality, AV1, LENIENT)
    assert refusal is not None
    assert refusal.rule == rule


def test_a_second_video_stream_is_not_accepted(source: Path, result: Transcode, tmp_path: Path) -> None:
    two = tool("-i", result.path, "-map", "0:v", "-map", "0", "-c", "copy", str(tmp_path / "two.mp4"))
    refusal = accept(ffmpeg.inspect(source), ffmpeg.inspect(two), result.quality, Recipe(), Acceptance())
    assert refusal is not None
    assert refusal.rule == "codec"


def test_a_doubtful_measurement_is_a_refusal_and_never_a_pass(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashed(*_: object, **__: object) -> None:
        raise NotAVideo("quality: ended by SIGSEGV")

    monkeypatch.setattr(ffmpeg, "measure", crashed)
    outcome = shrink(source, tmp_path)
    assert isinstance(outcome, Refusal)
    assert (outcome.rule, outcome.permanent) == ("not_verified", True)
