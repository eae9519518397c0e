"""An encode is valued by the days that the policy leaves the video: no class is compressed at an expected loss."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from typing import Any

import pytest

from reelkeeper.model import Action, SearchTotals, Verdict, Video
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, stay
from reelkeeper.rules.lifecycle.selection import fit
from reelkeeper.rules.lifecycle.transcode import Placement, Recipe
from reelkeeper.rules.lifecycle.worth import USD_PER_BYTE_DAY, Payback, Stay, Worth, unopened
from reelkeeper.rules.policies import DEFAULTS
from tests.rules.videos import AS_OF, RECIPE, judge, video

GRACE = DEFAULTS.lifecycle.grace
WINDOW = 30
LEARNT = SearchTotals(400, 300, 10**10, 2 * 10**9, 3_000.0)  # a fifth is kept, at a tenth of the usual CPU


def days_of(judged: Video, **policy: Any) -> int:  # noqa: ANN401  of the lifecycle
    made = LifecyclePolicy(**policy)
    assert judged.created_at is not None
    found = stay(made, SHIPPED, AS_OF, judged.tier, judged.created_at, is_ours=judged.is_ours)
    return Payback().days(found)


@pytest.mark.parametrize("views", [0, 2])  # few of its first days promise nothing
@pytest.mark.parametrize(("is_ours", "grace_days"), [(True, GRACE.days), (False, GRACE.service_days)])
@pytest.mark.parametrize("tier", ["premium", "pro"])
def test_a_video_that_is_to_be_retired_unwatched_counts_until_then_and_for_its_grace(
    tier: str, is_ours: bool, grace_days: int, views: int
) -> None:
    for age in (8, 20, 30):
        young = video(age, views, tier, is_ours=is_ours)
        assert days_of(young) == 30 - age + grace_days
        assert days_of(young, retire_after_days=60) == 60 - age + grace_days


@pytest.mark.parametrize(
    ("age", "tier", "policy", "days"),
    [
        (8, "free", {}, 22 + 7),
        (29, "free", {"retire_after_days": 90}, 1 + 7),  # its retention ends before
        (8, "pro", {"retire_below_views": None}, 357 + 7),
        (8, "premium", {"retire_below_views": None, "grace_days": 3}, 82 + 3),
        (25, "pro", {"retire_after_days": 20}, 0 + 7),
        (31, "pro", {}, 5 + 7),  # watched until its first day, at least: log(1 + 334) days more
        (60, "pro", {}, 72 + 7),  # until its 30th: 30 x log(1 + 305 / 30)
        (200, "pro", {}, 115 + 7),  # 170 x log(1 + 165 / 170)
        (364, "pro", {}, 0 + 7),
        (80, "pro", {"retire_after_days": 90}, 10 + 7),  # nothing is known of its views
    ],
)
def test_the_days_are_those_until_the_policy_has_it_deleted(
    age: int, tier: str, policy: dict[str, int | None], days: int
) -> None:
    assert days_of(video(age, 1, tier), **policy) == days


def test_what_is_kept_for_ever_counts_for_the_horizon() -> None:
    assert Payback(horizon_days=100).days(Stay()) == 100
    assert Payback(horizon_days=100).days(Stay(None, 7)) == 100
    assert Payback(horizon_days=100).days(Stay(None, 7, 10)) == 17


def planned(judged: Video, recipe: Recipe, known: SearchTotals, at: datetime = AS_OF) -> Verdict:
    worth = partial(unopened, recipe.codec, recipe.payback, known)
    verdict = judge(judged, DEFAULTS.lifecycle, DEFAULTS.tiers, at, RECIPE, worth)
    return fit(verdict, recipe.place, keeps_contract=True)


def first_night(judged: Video, views: int) -> int:
    """Return the first night on which the rules retire a video that has `views` in each window."""
    done = judged._replace(views=views, compressed=True)
    nights = range(DEFAULTS.recipe.payback.horizon_days + 2)
    return next(
        night
        for night in nights
        if planned(done, Recipe(), SearchTotals(), AS_OF + timedelta(days=night)).action is Action.RETIRE
    )


def lives(judged: Video, age: int) -> Iterator[tuple[float, int]]:
    """Return the nights on which the rules may retire a video, with their probabilities.

    It was watched until some age at least, and of those so watched, half are until twice that age. One that was not
    watched on a day that is known is not watched again.
    """
    unwatched, watched_for = first_night(judged, 0), age - WINDOW
    if watched_for <= 0:
        yield 1.0, unwatched
        return
    end = first_night(judged, 1)  # of its retention
    for days in range(end + 1):
        still, after = (watched_for / (watched_for + later) for later in (days, days + 1))
        yield still - after if days < end else still, max(days, unwatched)


@pytest.mark.parametrize("place", ["new_key", "in_place"])
@pytest.mark.parametrize("known", [SearchTotals(), LEARNT], ids=["cold", "learnt"])
@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_no_class_that_the_shipped_policies_compress_is_expected_to_cost_more_than_it_saves(
    codec: str, known: SearchTotals, place: Placement
) -> None:
    recipe = Recipe.model_validate({"codec": codec, "placement": place if codec == "h264" else "new_key"})
    chosen = dict[tuple[str, bool, int], float]()
    for tier, is_ours, age in product(SHIPPED.names, (True, False), (8, 15, 29, 31, 45, 60, 88, 100, 200, 300, 360)):
        of_age = video(age, 1, tier, is_ours=is_ours)
        if planned(of_age, recipe, known).action is Action.RETIRE:
            continue
        ends, grace_days = [*lives(of_age, age)], GRACE.days if is_ours else GRACE.service_days
        for views, size in product((0, 1, 4), (10**5, 10**6, 2 * 10**6, 5_100_000, 2 * 10**7, 10**9)):
            verdict = planned(of_age._replace(views=views, size_bytes=size), recipe, known)
            if verdict.action is not Action.COMPRESS:
                continue
            (worth,) = (figure for figure in verdict.figures if isinstance(figure, Worth))
            assert worth.original_bytes <= size
            stored = sum(chance * (night + grace_days) for chance, night in ends) * worth.saved_bytes
            gain_usd = (stored - worth.original_bytes * grace_days) * USD_PER_BYTE_DAY
            assert gain_usd >= worth.cost_usd, (tier, is_ours, age, views, size)
            chosen[tier, is_ours, age] = gain_usd - worth.cost_usd
    assert {age for tier, _, age in chosen if tier == "pro"} >= {60, 100, 200}  # watched for long: they pay
    assert not {age for _, _, age in chosen if age < WINDOW and known is not LEARNT}
