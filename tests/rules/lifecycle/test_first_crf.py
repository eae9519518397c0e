"""The first CRF of a search: a prior, or learnt from clips of the same model."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model import CrfSearch
from reelkeeper.rules.lifecycle.first_crf import Lesson, first_crf, kept_share, lesson
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from tests.rules.lifecycle.test_transcode import SOURCE

AV1 = Recipe(codec="av1")

SEARCH = CrfSearch(
    encoder="libsvtav1 4.2.0",
    preset=8,
    pixels=SOURCE.width * SOURCE.height,
    frames=SOURCE.frames,
    video_bits=SOURCE.video_bits,
    source_bytes=1_000_000,
    kept_bytes=300_000,
    outcome="accepted",
    probes=((40, 300_000, 94.5, 91.0, 1), (44, 250_000, 93.1, 90.0, 1)),
    cpu_seconds=5.0,
    days=83,
    gain_microusd=29,
    cost_microusd=61,
)


def seen(model: str | None, crf: float, share: float = 0.3, preset: int = 8) -> Lesson:
    return Lesson(model, preset, 0.2, SOURCE.width * SOURCE.height, crf, share)


def begin(lessons: list[Lesson], model: str | None = "fox", preset: int = 8) -> tuple[float, float]:
    return first_crf(lessons, SOURCE, model, "av1", preset)


def test_without_lessons_it_begins_at_the_prior_of_the_preset_and_knows_that_it_may_be_far_off() -> None:
    assert [begin([], preset=preset)[0] for preset in (6, 8, 9, 10)] == [43, 44, 42, 40]
    assert first_crf([], SOURCE, None, "vp9", 4).crf == 36
    assert begin([])[1] > 5


def test_a_few_clips_of_the_same_model_say_where_it_meets_the_floor() -> None:
    crf, sd_crf = begin([seen("fox", crf) for crf in (52.5, 53.4, 54.1)])
    assert 52 <= crf <= 54
    assert sd_crf < 2.5
    assert begin([seen("fox", 53)])[0] >= 51  # and even one says most of it


def test_clips_of_another_model_say_little_about_this_one() -> None:
    lessons = [seen("owl", 33.5), seen("owl", 34.0), seen("fox", 53.5), seen("fox", 54.0)]
    assert begin(lessons, "fox")[0] - begin(lessons, "owl")[0] >= 17
    assert begin(lessons, "new")[1] > 5


def test_results_at_one_preset_apply_to_another() -> None:
    """As far as the prior knows how they differ."""
    lessons = [seen("fox", 53, preset=8)] * 5
    assert begin(lessons, preset=8)[0] - begin(lessons, preset=10)[0] == 4


def test_clips_that_differ_widely_make_it_less_sure() -> None:
    alike, unlike = [seen("fox", 44)] * 6, [seen("fox", crf) for crf in (34, 54) * 3]
    assert begin(unlike)[1] > 2 * begin(alike)[1]


def test_the_part_that_is_kept_is_learnt_by_model_and_held_to_the_usual_preset() -> None:
    lessons = [seen("fox", 44, 0.9)] * 7 + [seen("owl", 44, 0.1)] * 7
    known = kept_share([], "fox", "av1", 0.35, 0.36)
    assert known.share == pytest.approx(0.35)
    assert kept_share(lessons, "fox", "av1", 0.35, 0.2).share == pytest.approx(0.8, abs=0.07)
    assert kept_share(lessons, "owl", "av1", 0.35, 0.2).share < 0.14
    assert 1 < kept_share(lessons, "owl", "av1", 0.35, 0.2).factor < known.factor < 1.4
    at_10 = [seen("fox", 40, 0.396, preset=10)] * 99
    assert kept_share(at_10, "fox", "av1", 0.3, 0.2).share == pytest.approx(0.3, abs=0.01)


def test_a_dense_source_is_expected_to_keep_a_smaller_share() -> None:
    shares = [kept_share([], None, "h264", 0.35, density).share for density in (0.0, 0.1, 0.2, 0.36, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[1] == pytest.approx(0.35 * 3.6**0.57)


def test_a_search_teaches_where_it_met_or_would_have_met_the_aim() -> None:
    learnt = lesson(SEARCH, "fox", AV1, Acceptance())
    assert learnt is not None
    assert learnt.floor_crf == pytest.approx(43.0, abs=0.3)  # half a point above the floor
    assert learnt.kept_share == pytest.approx(0.26, abs=0.01)
    assert (learnt.model, learnt.preset) == ("fox", 8)
    missed = replace(SEARCH, probes=((40, 300_000, 92.0, 89.0, 3),), kept_bytes=1_000_000, outcome="no_good_result")
    worse = lesson(missed, "fox", AV1, Acceptance())
    assert worse is not None
    assert worse.floor_crf < 40
    assert worse.kept_share > 0.3
    outgrown = replace(SEARCH, probes=((40, 900_001, None, None, 1),))
    assert lesson(outgrown, "fox", AV1, Acceptance()) is None


@given(st.lists(st.builds(seen, st.sampled_from(["fox", "owl", None]), st.floats(1, 90), st.floats(0.001, 9))))
def test_a_first_crf_is_always_between_the_results_and_the_prior(lessons: list[Lesson]) -> None:
    found = first_crf(lessons, SOURCE, "fox", "av1", 8)
    known = [44.0, *(item.floor_crf for item in lessons)]
    assert min(known) - 8 <= found.crf <= max(known) + 8
    assert 0 < found.sd_crf < 60
    assert 0.009 < kept_share(lessons, "fox", "av1", 0.35, 0.2).share < 2.5
