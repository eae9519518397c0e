"""The search for a CRF: a few encodes find the smallest result above the floors, or that none pays."""

from math import exp, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.lifecycle.crf import Probe, Stakes, best, careful, frame_step, is_good, next_crf
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe

AV1 = Recipe(codec="av1")

SIZE = 1_000_000  # bytes of the source
FREE = Stakes(1.0, 0.0)  # CPU costs nothing
MONTHS = Stakes(4.5e-11, 2e-5)  # three months of a byte, and two CPU seconds at 0.04 USD an hour


def after(*probes: Probe, first: float = 40, stakes: Stakes = FREE, recipe: Recipe = AV1) -> float | None:
    return next_crf(list(probes), SIZE, recipe, Acceptance(), first, stakes)


def test_the_search_begins_where_it_is_told_within_bounds() -> None:
    assert [after(first=first) for first in (40, 12, 61)] == [40, 20, 55]


def test_a_result_at_the_aim_ends_it() -> None:
    assert after(Probe(40, 400_000, 93.6, 91.0)) is None
    assert after(Probe(40, 400_000, 93.1, 91.0)) is None  # just above the floor: a lower CRF would only be larger


def test_a_probe_better_than_the_aim_leads_to_a_higher_crf() -> None:
    assert after(Probe(40, 400_000, 94.5, 91.0)) == 42
    assert after(Probe(40, 400_000, 96.9, 95.0)) == 50
    assert after(Probe(40, 400_000, 99.9, 99.0)) == 55  # and no further than VMAF can be trusted


def test_a_probe_worse_than_the_floor_leads_to_a_lower_crf() -> None:
    assert after(Probe(40, 400_000, 92.0, 88.5)) == 36


def test_x264_is_tried_on_halves_and_a_step_of_it_is_worth_more() -> None:
    better = Probe(25, 400_000, 94.5, 91.0)
    assert [after(better, recipe=Recipe(codec=codec)) for codec in ("h264", "hevc", "av1")] == [25.5, 26.0, 27]
    assert after(Probe(25, 600_000, 89.0, 86.0), recipe=Recipe()) == 21.5


def test_the_5th_percentile_counts_as_much_as_the_mean() -> None:
    assert after(Probe(40, 400_000, 95.0, 86.0)) == after(Probe(40, 400_000, 91.0, 90.0)) == 35


def test_between_two_probes_it_interpolates() -> None:
    assert after(Probe(32, 400_000, 96.0, 93.0), Probe(46, 200_000, 91.0, 88.0)) == 40


def test_a_near_miss_gets_another_probe_however_few_bits_its_source_has() -> None:
    assert after(Probe(40, 230_000, 92.77, 90.0)) == 38


def test_the_next_is_no_further_than_what_two_probes_say() -> None:
    """On a steep clip, whose quality falls twice as fast as is usual."""
    steep = Probe(32, 400_000, 97.0, 93.5), Probe(36, 330_000, 94.57, 92.5)
    assert (after(*steep), after(steep[1])) == (37, 38)


def test_the_search_ends_after_the_last_probe_allowed() -> None:
    tried = Probe(32, 500_000, 97.0, 94.0), Probe(46, 200_000, 90.0, 87.0), Probe(38, 400_000, 95.9, 93.0)
    assert after(*tried) is not None
    whole = [*tried, Probe(43, 300_000, 92.9, 89.0)]
    assert after(*whole) is None
    assert best(whole, SIZE, Acceptance()) == tried[2]


def test_the_search_ends_if_no_allowed_size_can_reach_the_quality() -> None:
    assert after(Probe(40, 890_000, 90.0, 87.5)) is None


def test_a_probe_larger_than_its_source_leads_to_a_higher_crf() -> None:
    assert after(Probe(32, 900_001)) == 40
    assert after(Probe(32, 900_001), Probe(40, 850_000, 95.0, 92.0)) == 43
    assert after(Probe(36, 900_001), Probe(37, 880_000, 90.0, 87.0)) is None


def test_a_further_probe_must_save_more_than_its_cpu_costs() -> None:
    fine = Probe(40, 400_000, 96.0, 93.0)
    assert after(fine) == 46
    assert after(fine, stakes=MONTHS) is None  # 71 kB can be expected, worth 0.000003 USD
    assert after(fine, stakes=MONTHS._replace(usd_per_byte=4.5e-10)) == 46  # of a video that stays for three years
    assert after(fine, stakes=MONTHS._replace(usd_per_probe=2e-7)) == 46


def test_a_search_without_a_result_yet_has_the_whole_source_to_gain() -> None:
    missed = Probe(40, 400_000, 92.0, 89.0)
    assert after(missed, stakes=MONTHS._replace(usd_per_probe=1e-5)) == 35  # a miss would cost more than the bytes
    assert after(missed, stakes=MONTHS) is None  # 345 kB can be expected: 0.000016 USD


def test_a_first_crf_keeps_away_from_the_floor_by_what_a_miss_costs_and_how_unsure_it_is() -> None:
    def begin(usd_per_probe: float, sd_crf: float = 5.0) -> float:
        return careful(44, sd_crf, 300_000, MONTHS._replace(usd_per_probe=usd_per_probe), AV1)

    assert begin(0.0) == 44  # bytes alone count
    dearer = [begin(usd) for usd in (0.0, 1e-6, 1e-5, 1e-4)]
    assert dearer == sorted(dearer, reverse=True)
    assert 34 <= dearer[-1] < 44
    assert begin(1e-5, sd_crf=0.0) == 44
    assert careful(26.5, 2.4, 300_000, MONTHS, Recipe()) % 0.5 == 0


def test_a_quality_that_is_no_number_ends_the_search_and_is_never_good() -> None:
    for mean, p5 in ((nan, 90.0), (95.0, nan), (nan, nan)):
        probe = Probe(32, 400_000, mean, p5)
        assert after(probe) is None
        assert not is_good(probe, SIZE, Acceptance())
        assert best([probe], SIZE, Acceptance()) is None


@pytest.mark.parametrize(
    ("size_bytes", "mean", "p5", "good"),
    [
        (900_000, 93.0, 88.0, True),  # exactly at every limit
        (900_001, 93.0, 88.0, False),
        (900_000, 92.99, 88.0, False),
        (900_000, 93.0, 87.99, False),
        (1, 93.0, 88.0, True),
        (0, 93.0, 88.0, False),
    ],
)
def test_a_result_at_the_floors_and_at_the_largest_size_is_good(
    size_bytes: int, mean: float, p5: float, good: bool
) -> None:
    limits = Acceptance(min_vmaf_mean=93, min_vmaf_p5=88, max_size_percent=90)
    assert is_good(Probe(40, size_bytes, mean, p5), SIZE, limits) is good


LONG = 600  # frames


@pytest.mark.parametrize(
    ("probes", "sd_crf", "frames", "step"),
    [
        ([], 5.5, LONG, 3),  # little is known: another will follow
        ([], 2.0, LONG, 1),  # likely the result
        ([], 5.5, 100, 1),  # too few frames for a percentile of every third
        ([Probe(40, 1, 91.0, 89.0)], 2.0, LONG, 3),
        ([Probe(40, 1, 91.0, 89.0), Probe(36, 1, 94.0, 92.0)], 5.5, LONG, 1),  # what comes between them
        ([Probe(40, 1, 91.0, 89.0)] * 3, 5.5, LONG, 1),  # the last one
    ],
)
def test_only_a_probe_that_is_probably_not_the_last_is_sampled(
    probes: list[Probe], sd_crf: float, frames: int, step: int
) -> None:
    assert frame_step(probes, frames, sd_crf, AV1, Acceptance()) == step


points = st.floats(0, 100, allow_nan=False)
measured = st.builds(
    lambda crf, size, mean, drop: Probe(crf, size, mean, mean - drop),
    st.integers(20, 55),
    st.integers(1, 1_100_000),
    points,
    st.floats(0, 10),
)
outgrown = st.builds(Probe, st.integers(20, 55), st.integers(900_001, 2_000_000), st.none(), st.none())


@given(st.lists(measured | outgrown, max_size=5), st.integers(1, 63))
def test_every_step_of_the_search_is_new_and_within_bounds(probes: list[Probe], first: int) -> None:
    wanted = after(*probes, first=first)
    if wanted is not None:
        assert 20 <= wanted <= 55
        assert wanted not in [probe.crf for probe in probes]
        assert len(probes) < 4


@given(
    st.floats(0.03, 0.09),
    st.floats(0.5, 12),
    st.floats(0, 5),
    st.integers(50_000, 3_000_000),
    st.floats(0.03, 0.1),
    st.integers(20, 55),
)
def test_a_search_ends_within_its_probes_close_to_the_floor(
    fall: float, missing_at_40: float, drop: float, size_at_40: int, shrink: float, first: int
) -> None:
    """Over encoders whose missing quality grows evenly on a logarithmic scale, as do their sizes shrink."""
    probes: list[Probe] = []

    def encode(crf: float) -> Probe:
        size = int(size_at_40 * 2 ** (shrink * (40 - crf)))
        mean = 101.4 - missing_at_40 * exp(fall * (crf - 40))
        return Probe(crf, size) if size > 900_000 else Probe(crf, size, mean, mean - drop)

    while (crf := after(*probes, first=first)) is not None:
        probes.append(encode(crf))
        assert len(probes) <= 4
    chosen = best(probes, SIZE, Acceptance())
    if chosen is None:
        return
    assert chosen.size_bytes <= min(probe.size_bytes for probe in probes if is_good(probe, SIZE, Acceptance()))
    above = [crf for crf in range(int(chosen.crf) + 4, 56) if is_good(encode(crf), SIZE, Acceptance())]
    margins = [encode(crf).margin(Acceptance()) or 0 for crf in above]
    assert len(probes) == 4 or not [margin for margin in margins if margin > 0.5]
