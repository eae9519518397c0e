"""Regions of videos: each is what the rules say of every video in it, and its limits are the policy's."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model import Action, Fork, SearchTotals, Verdict, Video
from reelkeeper.rules.core.tiers import SHIPPED, Tiers
from reelkeeper.rules.lifecycle import regions
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, refusals, verdicts
from reelkeeper.rules.lifecycle.selection import for_tiering
from reelkeeper.rules.lifecycle.transcode import EFFICIENT_CODECS
from reelkeeper.rules.lifecycle.worth import Payback, unopened
from tests.rules.lifecycle.test_lifecycle_properties import VIDEOS, kept, policies
from tests.rules.videos import AS_OF, RECIPE, video

Tree = Fork | str | None
WORTH = partial(unopened, "h264", Payback(), SearchTotals())
ALWAYS = datetime.min.replace(tzinfo=AS_OF.tzinfo)


def divided(policy: LifecyclePolicy, tiers: Tiers, views_since: datetime = ALWAYS) -> tuple[Tree, regions.Judged]:
    def judged(videos: Iterable[Video]) -> Iterable[Verdict]:
        return for_tiering(verdicts(videos, policy, tiers, AS_OF, RECIPE, worth=WORTH))

    names = regions.names(policy, tiers, EFFICIENT_CODECS, refusals(RECIPE, AS_OF))
    return regions.divide(judged, names, views_since), judged


def found(tree: Tree, one: Video) -> str | None:
    """Follow the questions for a video, as the store does for all."""
    known = one._asdict() | {"dated": one.created_at is not None, "kept": one.kept_until is not None}
    while isinstance(tree, Fork):
        value = known[tree.property]
        tree = next((then for answer, then in tree.answers if holds(value, answer)), tree.otherwise)
    return tree


def holds(value: Any, answer: Any) -> bool:  # noqa: ANN401  of any property
    return bool(value == answer if isinstance(answer, str | bool | None) else value < answer)


def limits(tree: Tree, of: str) -> set[object]:
    if not isinstance(tree, Fork):
        return set()
    mine = {answer for answer, _ in tree.answers} if tree.property == of else set()
    return mine.union(*(limits(then, of) for _, then in tree.answers), limits(tree.otherwise, of))


@given(VIDEOS, policies(), kept(), st.none() | st.floats(0, 40))
def test_a_region_is_kept_by_the_rule_that_keeps_each_of_its_videos(
    one: Video, policy: LifecyclePolicy, tiers: Tiers, unknown_before: float | None
) -> None:
    since = ALWAYS if unknown_before is None else AS_OF - timedelta(days=unknown_before)
    tree, judged = divided(policy, tiers, since)
    seen = one if one.created_at and one.created_at >= since else one._replace(views=None)
    (verdict,) = judged([seen])
    if rule := found(tree, seen._replace(views=seen.views or 0)):
        assert (verdict.action, verdict.rule) == (Action.KEEP, rule)
    elif verdict.action is Action.KEEP and one.created_at:
        assert verdict.rule in {"kept_on_request", "does_not_pay"}


def test_the_limits_are_those_of_the_policy() -> None:
    tree, _ = divided(LifecyclePolicy(), SHIPPED)
    days = [timedelta(days=days) for days in (7, 30, 90, 365)]
    assert limits(tree, "created_at") == {AS_OF + timedelta(microseconds=1), *(AS_OF - age for age in days)}
    assert limits(tree, "views") == {0, 1, 5}
    assert limits(tree, "tier") == {"free", "premium", "pro"}


def test_only_what_may_be_changed_is_judged_one_by_one() -> None:
    tree, _ = divided(LifecyclePolicy(), SHIPPED)
    cold = [video(10, 2), video(40, 0)]
    kept_by = {video(3, 0): "too_young", video(40, 9): "still_watched", video(-1): "future_created"}
    kept_by |= {video(40, 0, held=True): "held", video(10, 2, compressed=True): "compressed_before"}
    assert [found(tree, one) for one in cold] == [None, None]
    assert {one: found(tree, one) for one in kept_by} == kept_by


def test_beyond_a_thousand_regions_videos_are_judged_one_by_one() -> None:
    names = [{"name": f"s{n}", "tags": [f"t{n}-{m}" for m in range(50)]} for n in range(25)]
    tree, _ = divided(LifecyclePolicy.model_validate({"segments": names}), SHIPPED)
    rules = [found(tree, video(3, 0, model="m", tag=tag)) for tag in ("other", None, "t9-9")]
    assert rules == ["too_young", "too_young", None]


def test_questions_stand_at_most_forty_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "MAX_REGIONS", 10_000)
    never = dict.fromkeys(("retention_days", "compress_below_views", "retire_below_views"), "never")
    sizes = [never | {"name": f"s{n}", "min_bytes": n * 100, "max_bytes": n * 100 + n} for n in range(50)]
    tree, _ = divided(LifecyclePolicy.model_validate({"segments": sizes}), Tiers({"pro": SHIPPED.root["pro"]}))
    assert 30 < deep(tree) <= regions.MAX_DEPTH + 1


def deep(tree: Tree) -> int:
    return 1 + max(map(deep, (tree.otherwise, *(then for _, then in tree.answers)))) if isinstance(tree, Fork) else 0
