"""Which originals at the service's keys may be replaced in place, and the reasons against the others."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.model import Action, SearchTotals, Verdict, Video
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, reason
from reelkeeper.rules.lifecycle.selection import fitting, for_expiry, for_tiering
from reelkeeper.rules.lifecycle.transcode import (
    BUCKET_LOCK,
    MAX_BYTES_IN_PLACE,
    Acceptance,
    Placement,
    Recipe,
    fingerprint,
    mark_of_month,
    why_not_in_place,
)
from reelkeeper.rules.lifecycle.worth import Payback, Worth, unopened
from tests.rules.videos import AS_OF, RECIPE, judge, video

Flow = Callable[[Iterable[Verdict]], Iterable[Verdict]]


def planned(judged: Video, placement: Placement = "in_place", *, keeps_contract: bool = True) -> tuple[str, str]:
    found = judge(judged, LifecyclePolicy(), SHIPPED, AS_OF, RECIPE)
    (verdict,) = fitting([found], placement, keeps_contract=keeps_contract)
    assert reason(verdict)  # which a person can be told
    return verdict.action, verdict.rule


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"codec": "vp8"}, "not_in_place"),
        ({"refused_recipe": "not_in_place"}, "not_in_place"),  # as a run has found
        ({"refused_recipe": mark_of_month(BUCKET_LOCK, AS_OF)}, "locked_in_place"),
        ({"size_bytes": MAX_BYTES_IN_PLACE + 1}, "too_large_in_place"),
    ],
)
def test_videos_that_cannot_be_put_in_place_are_kept_with_the_reason(columns: dict[str, Any], rule: str) -> None:
    assert planned(video(is_ours=False, **columns)) == (Action.KEEP, rule)


@pytest.mark.parametrize("placement", ["in_place", "new_key"])
@pytest.mark.parametrize("columns", [{}, {"views": 0}])  # to compress, and to retire
def test_in_a_bucket_that_was_not_tried_the_services_videos_are_kept(
    placement: Placement, columns: dict[str, Any]
) -> None:
    """Their bytes could not be purged, so neither would save anything."""
    assert planned(video(is_ours=False, **columns), placement)[0] != Action.KEEP
    action, rule = planned(video(is_ours=False, **columns), placement, keeps_contract=False)
    assert (action, rule) == (Action.KEEP, "contract_not_tried")
    assert planned(video(is_ours=True, **columns), placement, keeps_contract=False)[0] != Action.KEEP


@pytest.mark.parametrize("flow", [for_expiry, for_tiering])
def test_the_contract_keeps_only_what_a_flow_would_change_and_leaves_the_rest_as_it_would_be(flow: Flow) -> None:
    ages_views = [(366, 9), (200, 0), (200, 3), (200, 9), (3, 0)]  # past retention, cold twice, watched, young
    seen = [video(days, views, is_ours=is_ours) for days, views in ages_views for is_ours in (True, False)]
    found = [judge(each, LifecyclePolicy(), SHIPPED, AS_OF, RECIPE) for each in seen]
    passed, failed = (list(flow(fitting(found, "new_key", keeps_contract=kept))) for kept in (True, False))
    for without, verdict in zip(failed, passed, strict=True):
        is_stopped = verdict.action is not Action.KEEP and not verdict.video.is_ours
        assert without == verdict or (is_stopped and without.rule == "contract_not_tried")
        assert without.action is (Action.KEEP if is_stopped else verdict.action)


@pytest.mark.parametrize("codec", ["h264", None])  # what is not known is probed by the run
@pytest.mark.parametrize("size_bytes", [10**7, MAX_BYTES_IN_PLACE])
def test_videos_fit_for_a_swap_in_place_stay_in_the_plan(codec: str | None, size_bytes: int) -> None:
    fits = video(is_ours=False, codec=codec, size_bytes=size_bytes)
    assert planned(fits)[1] == "cold_compress"
    assert planned(fits._replace(codec="vp8"), "new_key")[1] == "cold_compress"
    assert planned(video(codec="vp8"), keeps_contract=False)[1] == "cold_compress"  # at a key of ours
    assert planned(video(366, 9, is_ours=False, codec="vp8"))[1] == "past_retention"


def test_a_video_refused_for_a_lock_is_tried_again_the_next_month() -> None:
    last_month = AS_OF.replace(day=1) - timedelta(days=1)
    assert planned(video(is_ours=False, refused_recipe=mark_of_month(BUCKET_LOCK, last_month)))[1] == "cold_compress"
    assert (
        planned(video(is_ours=False, refused_recipe=mark_of_month(BUCKET_LOCK, AS_OF)), "new_key")[1] == "cold_compress"
    )


def test_only_h264_in_mp4_of_one_put_is_put_over() -> None:
    assert why_not_in_place("h264", "mp4", MAX_BYTES_IN_PLACE) is None
    for unfit in (("hevc", "mp4", 1), ("h264", "webm", 1), ("h264", "mp4", MAX_BYTES_IN_PLACE + 1)):
        assert why_not_in_place(*unfit)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"codec": "av1"}, snapshot("Value error, placement in_place takes h264 in mp4 alone, no av1 in mp4")),
        (
            {"codec": "av1", "container": "webm"},
            snapshot("Value error, placement in_place takes h264 in mp4 alone, no av1 in webm"),
        ),
    ],
)
def test_a_recipe_of_another_format_is_not_put_in_place(changed: dict[str, str], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Recipe.model_validate({"placement": "in_place", **changed})
    assert refused.value.errors()[0]["msg"] == told


def test_a_refused_video_is_not_tried_again_for_another_placement() -> None:
    assert fingerprint(Recipe(), Acceptance(), "x") == fingerprint(Recipe(placement="in_place"), Acceptance(), "x")


@pytest.mark.parametrize(
    ("changed", "place"),
    [({}, "in_place"), ({"codec": "av1"}, "new_key"), ({"codec": "vp9", "container": "webm"}, "new_key")],
)
def test_auto_is_in_place_where_links_can_be_kept_and_makes_no_recipe_invalid(
    changed: dict[str, str], place: Placement
) -> None:
    assert Recipe.model_validate({"placement": "auto", **changed}).place == place


def test_an_encode_in_place_also_pays_for_the_originals_copy_aside() -> None:
    """For its requests, as the original's bytes stay for the grace anyway; a video that pays only without is kept."""
    appraise = partial(unopened, "h264", Payback(), SearchTotals())

    def judged(size_bytes: int, place: Placement) -> Verdict:
        old = video(200, 3, size_bytes=size_bytes, is_ours=False)
        found = judge(old, LifecyclePolicy(), SHIPPED, AS_OF, RECIPE, appraise)
        (verdict,) = fitting([found], place, keeps_contract=True)
        return verdict

    def worth(verdict: Verdict) -> Worth:
        return next(figure for figure in verdict.figures if isinstance(figure, Worth))

    large = [judged(6 * 10**6, place) for place in ("new_key", "in_place")]
    assert {verdict.rule for verdict in large} == {"cold_compress"}
    assert worth(large[1]).gain_usd == worth(large[0]).gain_usd
    assert worth(large[1]).cost_usd - worth(large[0]).cost_usd == pytest.approx(4.5e-6 + 4 * 0.36e-6)
    sizes = range(10**5, 2 * 10**6, 10**5)
    by_size = [tuple(judged(size, place).rule for place in ("new_key", "in_place")) for size in sizes]
    assert ("cold_compress", "does_not_pay") in by_size
    assert ("does_not_pay", "cold_compress") not in by_size
