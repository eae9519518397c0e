"""The value of an encode: bytes saved until the video is deleted, minus CPU and requests; the best preset."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.model import CrfSearch, Media, SearchTotals
from reelkeeper.rules.lifecycle.worth import EFFORTS, Payback, Stay, Worth, at_presets, choose, pace, unopened
from tests.reading import as_read
from tests.rules.lifecycle.test_transcode import SOURCE

PRICED = Payback(cpu_usd_per_hour=Decimal("0.04"))
NEVER = Payback(cpu_usd_per_hour=None)
ALL = tuple(EFFORTS["av1"])


def sized(size_bytes: int) -> Media:
    return replace(SOURCE, size_bytes=size_bytes, video_bits=8 * size_bytes)


def at_8(size_bytes: int, days: int | None, payback: Payback = PRICED) -> Worth:
    return at_presets(sized(size_bytes), "av1", [8], 0.35, payback, Stay(days))[8]


def test_the_arithmetic_is_that_of_the_price_list() -> None:
    worth = at_8(4_000_000, 30)
    # 221 megapixels x (0.072 + 0.032) CPU s x 1.5 encodes = 34.5 CPU s at 0.04 USD an hour, one put and two gets;
    # 2.6 MB less for a month at 0.015 USD a GB
    assert worth.saved_bytes == 2_600_000
    assert worth.cpu_seconds == pytest.approx(221.184 * 0.104 * 1.5)
    assert worth.gain_usd == pytest.approx(0.0026 * 0.015)
    assert worth.cost_usd == pytest.approx(worth.cpu_seconds / 3600 * 0.04 + 4.5e-6 + 3 * 0.36e-6)
    assert worth.net_microusd == 39 - 389
    assert not worth.pays
    assert as_read(worth.sentence()) == snapshot("""\
it is expected to save 0.000039 USD and to cost 0.000389 USD: 2.60 MB less for 30 days at 0.015
  USD a GB-month; 34.5 CPU s at 0.04 USD an hour, requests 0.000006 USD\
""")


@given(
    factor=st.floats(0.1, 10),
    preset=st.sampled_from(ALL),
    probes=st.integers(1, 5),
    counts=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_the_cpu_of_searches_here_counts_most_and_of_those_elsewhere_until_there_are_some(
    factor: float, preset: int, probes: int, counts: tuple[int, int]
) -> None:
    known, (here, elsewhere) = EFFORTS["av1"][preset], counts
    told = 92.16 * (known.encode_cpu_seconds + 0.032) * probes  # 100 frames of 720p
    search = CrfSearch(
        "e", preset, 1280 * 720, 100, 8, 1, 1, "accepted", ((40.0, 1, 94.0, 90.0, 1),) * probes, 0, 0, 0, 0
    )
    at_home = [replace(search, cpu_seconds=factor * told)] * here
    away = [replace(search, cpu_seconds=2 * told)] * elsewhere
    anywhere = (10 + (here * factor + elsewhere * 2) * told) / (10 + (here + elsewhere) * told)
    assert pace("av1", at_home, [*at_home, *away]) == pytest.approx(
        (10 * anywhere + here * factor * told) / (10 + here * told)
    )


def test_a_large_file_with_a_long_life_pays() -> None:
    assert at_8(30_000_000, None).pays
    assert at_8(30_000_000, 60).pays
    assert not at_8(30_000_000, 10).pays


def test_without_a_price_every_encode_pays_by_the_usual_effort() -> None:
    assert at_8(1_000, 0, NEVER).pays
    assert choose(at_presets(SOURCE, "av1", ALL, 0.35, NEVER, Stay(10)), "av1") == 8
    assert choose(at_presets(SOURCE, "vp9", [4], 0.35, NEVER, Stay(10)), "vp9") == 4


def test_vp9_must_save_more_to_pay() -> None:
    large = sized(10_000_000)
    assert at_presets(large, "av1", [8], 0.35, PRICED, Stay(200))[8].pays
    assert not at_presets(large, "vp9", [4], 0.35, PRICED, Stay(200))[4].pays


def test_a_video_kept_for_years_gets_a_slow_preset_and_one_kept_for_weeks_a_fast_one() -> None:
    long = Payback(cpu_usd_per_hour=Decimal("0.04"), horizon_days=3_650)

    def chosen(days: int) -> int:
        return choose(at_presets(SOURCE, "av1", ALL, 0.35, long, Stay(days)), "av1")

    assert [chosen(days) for days in (30, 3_650)] == [10, 6]
    steps = [chosen(days) for days in range(30, 3_650, 60)]
    assert steps == sorted(steps, reverse=True)


def test_before_a_video_is_opened_what_earlier_ones_kept_and_cost_tells() -> None:
    def expect(before: SearchTotals) -> Worth:
        return unopened("av1", PRICED, before, 10_000_000, Stay(83))

    unpriced = unopened("av1", NEVER, SearchTotals(), 10_000_000, Stay(83))
    assert unpriced.saved_bytes == 6_500_000
    assert unpriced.cpu_seconds == pytest.approx(10_000_000 * 8 / 0.36 / 1e6 * 0.104 * 1.5)
    assert expect(SearchTotals()).pays
    lean = expect(SearchTotals(400, 0, 10**10, 10**10, 40_000.0))  # nothing of ten GB was saved
    assert lean.saved_bytes < 100_000
    assert not lean.pays
    fat = expect(SearchTotals(400, 400, 10**10, 10**9, 3_000.0))
    assert fat.saved_bytes > 8_600_000
    assert fat.cpu_seconds < 4
    assert fat.pays


def test_while_all_that_is_stored_is_free_nothing_pays_but_where_cpu_has_no_price() -> None:
    billed, free, unpriced = (
        unopened("h264", payback, SearchTotals(), 10**9, Stay(300), is_billed=is_billed)
        for payback, is_billed in ((PRICED, True), (PRICED, False), (NEVER, False))
    )
    assert [worth.pays for worth in (billed, free, unpriced)] == [True, False, True]
    assert (free.net_microusd, free.saved_bytes) == (billed.net_microusd, billed.saved_bytes)  # at list price


def test_a_file_that_pays_only_if_dense_is_opened_and_valued_by_that_case() -> None:
    """Before it is open nobody knows its pixels; once it is, it is left alone where it does not pay."""

    def expect(days: int) -> Worth:
        return unopened("h264", PRICED, SearchTotals(), 1_500_000, Stay(days))

    usual = unopened("h264", NEVER, SearchTotals(), 1_500_000, Stay(83))
    assert not usual._replace(payback=PRICED).pays
    looked_at = expect(83)
    assert looked_at.pays
    assert 0 < looked_at.saved_bytes < usual.saved_bytes
    assert looked_at.cpu_seconds < usual.cpu_seconds
    assert not expect(20).pays
    assert expect(20).saved_bytes == usual.saved_bytes  # the arithmetic that is shown
    assert expect(9_999).saved_bytes == pytest.approx(usual.saved_bytes, rel=0.01)  # it pays however it turns out


@given(st.integers(1, 10**9), st.integers(0, 400), st.integers(0, 400))
def test_a_longer_life_never_makes_an_encode_pay_less(size: int, days: int, more: int) -> None:
    if at_8(size, days).pays:
        assert at_8(size, days + more).pays


@given(st.integers(1, 10**9), st.floats(0.01, 2), st.integers(0, 400))
def test_the_effort_that_is_chosen_leaves_most_over(size: int, kept: float, days: int) -> None:
    worths = at_presets(sized(size), "av1", ALL, kept, PRICED, Stay(days))
    best = worths[choose(worths, "av1")]
    assert all(best.gain_usd - best.cost_usd >= other.gain_usd - other.cost_usd for other in worths.values())
    assert all(0 <= worth.saved_bytes <= size for worth in worths.values())


def test_the_sentence_has_the_figures_of_one_encode_and_how_likely_it_is() -> None:
    """The saving and cost count by that chance: the bytes of a video would seem a third of what it has."""
    said = Worth(300_000, 86, 3.0, Payback(), original_bytes=420_000, grace_days=14, chance=0.3).sentence()
    assert [figure in said for figure in ("30%", " 1.00 ", " 1.40 ", " 10.0 ")] == [True] * 4
