"""Which CRF comes next: one to three encodes find the smallest result above the floor, or that there is none."""

from math import nan

from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.lifecycle.crf import Probe, best, is_good, next_crf
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe

DENSE = 0.2  # bits per pixel


def after(*probes: Probe, density: float = DENSE) -> int | None:
    return next_crf(list(probes), 1_000_000, density, Recipe(), Acceptance())


def test_the_search_starts_at_its_start() -> None:
    assert after() == 32


def test_a_first_probe_within_the_band_is_the_result() -> None:
    assert after(Probe(32, 400_000, 94.0, 91.0)) is None


def test_too_good_a_probe_leads_to_a_higher_crf() -> None:
    assert after(Probe(32, 400_000, 98.0, 95.0)) == 44
    assert after(Probe(32, 400_000, 99.9, 99.0)) == 45  # and no further than VMAF can be trusted


def test_too_bad_a_probe_leads_to_a_lower_crf() -> None:
    assert after(Probe(32, 400_000, 92.0, 88.5)) == 27


def test_the_5th_percentile_counts_as_much_as_the_mean() -> None:
    assert after(Probe(32, 400_000, 95.0, 86.0)) == 24


def test_between_two_probes_it_interpolates() -> None:
    assert after(Probe(32, 400_000, 97.0, 94.0), Probe(42, 200_000, 92.0, 89.0)) == 38


def test_it_ends_after_the_last_probe_allowed() -> None:
    probes = Probe(32, 400_000, 97.0, 94.0), Probe(42, 200_000, 92.0, 89.0), Probe(38, 300_000, 92.9, 89.0)
    assert after(*probes) is None
    assert best(list(probes), 1_000_000, Acceptance()) == probes[0]


def test_a_large_result_of_little_quality_is_hopeless() -> None:
    assert after(Probe(32, 860_000, 93.9, 91.0)) is None


def test_one_that_outgrew_its_source_is_tried_once_more_if_the_source_is_dense() -> None:
    assert after(Probe(32, 900_001)) == 40
    assert after(Probe(32, 900_001), density=0.05) is None


def test_a_lean_source_gets_no_second_probe_unless_there_is_quality_to_give_away() -> None:
    assert after(Probe(32, 400_000, 92.0, 91.0), density=0.05) is None
    assert after(Probe(32, 870_000, 97.4, 94.4), density=0.05) == 42


def test_a_quality_that_is_no_number_ends_the_search_and_is_never_good() -> None:
    for mean, p5 in ((nan, 90.0), (95.0, nan), (nan, nan)):
        probe = Probe(32, 400_000, mean, p5)
        assert after(probe) is None
        assert not is_good(probe, 1_000_000, Acceptance())
        assert best([probe], 1_000_000, Acceptance()) is None


points = st.floats(0, 100, allow_nan=False)
measured = st.builds(
    lambda crf, size, mean, drop: Probe(crf, size, mean, mean - drop),
    st.integers(20, 45),
    st.integers(1, 1_100_000),
    points,
    st.floats(0, 10),
)
outgrown = st.builds(Probe, st.integers(20, 45), st.integers(900_001, 2_000_000), st.none(), st.none())


@given(st.lists(measured | outgrown, max_size=4), st.floats(0, 1))
def test_every_step_of_the_search_is_new_and_within_bounds(probes: list[Probe], density: float) -> None:
    wanted = next_crf(probes, 1_000_000, density, Recipe(), Acceptance())
    if wanted is not None:
        assert 20 <= wanted <= 45
        assert wanted not in [probe.crf for probe in probes]
        assert len(probes) < 3


@given(st.floats(0.1, 0.6), st.floats(85, 99.5), st.floats(0, 5), st.integers(50_000, 3_000_000), st.floats(0.02, 1))
def test_a_search_ends_within_its_probes_at_a_good_one_or_none(
    slope: float, at_32: float, drop: float, size_at_32: int, density: float
) -> None:
    """Over encoders whose quality falls and whose size shrinks with the CRF, 6 steps halving it."""
    probes: list[Probe] = []
    while (crf := next_crf(probes, 1_000_000, density, Recipe(), Acceptance())) is not None:
        size, mean = int(size_at_32 * 2 ** ((32 - crf) / 6)), at_32 - slope * (crf - 32)
        probes.append(Probe(crf, size) if size > 900_000 else Probe(crf, size, mean, mean - drop))
        assert len(probes) <= 3
    chosen = best(probes, 1_000_000, Acceptance())
    assert chosen is None or is_good(chosen, 1_000_000, Acceptance())
    first = probes[0]
    if is_good(first, 1_000_000, Acceptance()):
        assert chosen is not None
        assert chosen.size_bytes <= first.size_bytes
