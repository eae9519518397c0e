"""In a store that knows too little, a few videos are tried that may pay, until it is known whether they do."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.model import Action, SearchTotals, Verdict, Video
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, reason
from reelkeeper.rules.lifecycle.selection import MOST_TRIED, TRIED, fit, for_tiering, trying
from reelkeeper.rules.lifecycle.transcode import Placement
from reelkeeper.rules.lifecycle.worth import (
    KNOWN_SEARCHES,
    MOST_MICROUSD_TO_LEARN,
    USD_PER_BYTE_DAY,
    Payback,
    Worth,
    cpu_seconds_a_byte,
    unopened,
)
from tests.reading import as_read
from tests.rules.videos import AS_OF, RECIPE, judge, video

COLD = [video(8, 1, "premium", id=f"v{place}", size_bytes=2 * 10**6) for place in range(40)]
RICH = 5 * 10**6  # micro-dollars left of the day
PRICED, NOTHING_KNOWN = Payback(), SearchTotals()
KNOWN = SearchTotals(KNOWN_SEARCHES, KNOWN_SEARCHES, 4 * 10**8, 3 * 10**8, 1000.0)
POOR = SearchTotals(100, 100, 2 * 10**8, 2 * 10**8, 600.0)


def plan(
    videos: list[Video],
    known: SearchTotals = NOTHING_KNOWN,
    *,
    left: int | None = RICH,
    place: Placement = "new_key",
    keeps_contract: bool = True,
    payback: Payback = PRICED,
    **free: Any,  # noqa: ANN401  whether the store is billed
) -> list[Verdict]:
    worth = partial(unopened, "h264", payback, known, **free)
    judged = (judge(one, LifecyclePolicy(), SHIPPED, AS_OF, RECIPE, worth) for one in videos)
    fitting = for_tiering(fit(verdict, place, keeps_contract=keeps_contract) for verdict in judged)
    return list(trying(fitting, place, left, keeps_contract=keeps_contract))


def tried(verdicts: list[Verdict]) -> list[str]:
    return [verdict.video.id for verdict in verdicts if verdict.rule == TRIED]


def test_a_cold_store_tries_a_few_of_the_videos_that_may_pay_and_keeps_the_others() -> None:
    verdicts = plan(COLD)
    assert len(tried(verdicts)) == MOST_TRIED
    assert {verdict.action for verdict in verdicts if verdict.rule == TRIED} == {Action.COMPRESS}
    assert {verdict.rule for verdict in verdicts} == {TRIED, "does_not_pay"}
    assert sorted(verdict.video.id for verdict in verdicts) == sorted(one.id for one in COLD)


def test_the_draw_is_the_same_in_whatever_order_the_videos_come_and_favours_no_size() -> None:
    larger = [one._replace(size_bytes=10**6 * (2 + place)) for place, one in enumerate(COLD)]
    assert tried(plan(COLD)) == tried(plan(COLD[::-1])) == tried(plan(larger))


def test_the_verdict_shows_what_is_expected_and_the_best_case() -> None:
    told = {verdict.rule: as_read(reason(verdict)) for verdict in plan(COLD)}
    assert told[TRIED] == snapshot("""\
1 view in 30 days, 8 days old: tried, to learn whether clips here pay; it is expected to save
  0.000012 USD and to cost 0.000064 USD: 1.30 MB less for 29 days, and the original's 2.00 MB more
  for 7 days at 0.015 USD a GB-month; 5.3 CPU s at 0.04 USD an hour, requests 0.000006 USD; at
  best 0.000004 USD are left over, so it may be tried until 200 searches have shown what clips
  here keep\
""")


@pytest.mark.parametrize(
    "case",
    [
        {"known": KNOWN},
        {"known": POOR},  # even a hundred of the best would not make good for these
        {"is_billed": False},
        {"left": 0},
        {"payback": Payback(cpu_usd_per_hour=None)},
        {"videos": [one._replace(size_bytes=500_000) for one in COLD]},  # their requests cost more than is ever saved
        {"videos": [one._replace(size_bytes=10**9) for one in COLD]},  # each would cost 3 cents
        {"videos": [video(25, 1, "premium", id="late", size_bytes=2 * 10**6)]},  # gone in twelve days
        {"videos": [one._replace(compressed=True) for one in COLD]},
        {"videos": [one._replace(refused_recipe=RECIPE) for one in COLD]},
        {"videos": [one._replace(held=True) for one in COLD]},
        {"videos": [one._replace(is_ours=False) for one in COLD], "keeps_contract": False},
        {"videos": [one._replace(is_ours=False, codec="mpeg4") for one in COLD], "place": "in_place"},
    ],
    ids="-".join,
)
def test_nothing_is_tried(case: dict[str, Any]) -> None:
    assert not tried(plan(**{"videos": COLD, **case}))


def test_at_the_services_keys_the_copys_requests_are_counted_in_what_may_pay() -> None:
    theirs = [one._replace(is_ours=False) for one in COLD]
    sizes = range(10**5, 4 * 10**6, 10**5)
    least = {}
    for place in ("new_key", "in_place"):
        least[place] = next(
            size for size in sizes if tried(plan([one._replace(size_bytes=size) for one in theirs], place=place))
        )
    assert least["new_key"] < least["in_place"]


@given(st.integers(0, 10**6))
def test_tries_may_cost_at_most_a_tenth_of_what_is_left_of_the_day(left: int) -> None:
    count = len(tried(plan(COLD, left=left)))
    assert count == min(MOST_TRIED, left // 20_000)
    assert count * MOST_MICROUSD_TO_LEARN <= left / 10


def expected(verdicts: list[Verdict]) -> Iterator[Worth]:
    for verdict in verdicts:
        if verdict.rule == TRIED:
            yield next(figure for figure in verdict.figures if isinstance(figure, Worth))


def nights(size_bytes: int, kept: float, cpu: float) -> tuple[SearchTotals, float, set[str]]:
    """Let 100 nights pass over a store whose clips keep this share, for this part of the CPU that was expected.

    Return what it knows then, the dollars that trying cost, with the originals' grace, and the rules of its last plan.
    """
    known, usd, store = SearchTotals(), 0.0, [one._replace(size_bytes=size_bytes) for one in COLD]
    for night in range(100):
        tonight = plan([one._replace(id=f"{one.id} of night {night}") for one in store], known)
        for worth in expected(tonight):
            cpu_seconds = cpu * cpu_seconds_a_byte("h264") * size_bytes
            known = SearchTotals(
                known.searches + 1,
                known.searches + 1,
                known.source_bytes + size_bytes,
                known.kept_bytes + round(kept * size_bytes),
                known.cpu_seconds + cpu_seconds,
            )
            usd += worth._replace(cpu_seconds=cpu_seconds).cost_usd + size_bytes * worth.grace_days * USD_PER_BYTE_DAY
    return known, usd, {verdict.rule for verdict in tonight}


@pytest.mark.long("a hundred nights for each")
@pytest.mark.parametrize("kept", [0.5, 1.0])
@pytest.mark.parametrize("size_mb", [1, 2, 3, 5, 30, 60, 100])
def test_where_it_does_not_pay_trying_ends_by_itself_for_cents_in_all(size_mb: int, kept: float) -> None:
    known, usd, last = nights(size_mb * 10**6, kept, 1.0)
    assert known.searches < KNOWN_SEARCHES  # it stops once even the best of the rest would not make good for these
    assert usd < min(
        0.3, (KNOWN_SEARCHES + MOST_TRIED) * (MOST_MICROUSD_TO_LEARN / 1e6 + size_mb * 10**6 * 7 * USD_PER_BYTE_DAY)
    )
    assert last == {"does_not_pay"}


@pytest.mark.parametrize(("size_mb", "searches"), [(2, 150), (5, 10), (60, 10)])
def test_where_it_pays_trying_teaches_that_and_then_all_are_compressed(size_mb: int, searches: int) -> None:
    known, usd, last = nights(size_mb * 10**6, 0.2, 0.1)
    assert known.searches == searches
    assert usd < 0.005
    assert last == {"cold_compress"}
