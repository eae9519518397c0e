"""Which cold videos are compressed, retired or kept."""

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import partial

import pytest
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.errors import PolicyRefused
from reelkeeper.model import Action, SearchTotals, Verdict, Video
from reelkeeper.rules.core.tiers import SHIPPED, Tiers
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, reason, verdicts
from reelkeeper.rules.lifecycle.savings import of_verdict
from reelkeeper.rules.lifecycle.selection import for_expiry, for_tiering, largest_first
from reelkeeper.rules.lifecycle.transcode import EFFICIENT_CODECS, mark_of_month
from reelkeeper.rules.lifecycle.worth import Payback, Stay, Worth, unopened
from tests.rules.videos import AS_OF, RECIPE, SECOND, judge, video
from tests.tiers import FOR_EVER, tiers

DEFAULT = LifecyclePolicy()


def rule(judged: Video, policy: LifecyclePolicy = DEFAULT, kept: Tiers = SHIPPED) -> str:
    return judge(judged, policy, kept, AS_OF, RECIPE).rule


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (video(0, 0), "too_young"),
        (video(7, 0), "too_young"),  # "above 7 days" is more than 7 days
        (video(7 + 1e-6, 4), "cold_compress"),
        (video(7 + 1e-6, 5), "still_watched"),  # "below 5 views" is 4 or fewer
        (video(30, 0), "cold_compress"),
        (video(30 + 1e-6, 0), "cold_retire"),
        (video(30 + 1e-6, 1), "cold_compress"),
        (video(364, 5), "still_watched"),
        (video(365, 10**6), "still_watched"),
        (video(365 + 1e-6, 10**6), "past_retention"),  # however often it is viewed
        (video(90, 9, "premium"), "still_watched"),
        (video(90 + 1e-6, 9, "premium"), "past_retention"),
        (video(30, 9, "free"), "still_watched"),
        (video(30 + 1e-6, 9, "free"), "past_retention"),
        (video(31, 100, "premium"), "still_watched"),  # each tier has a retention of its own
        *((video(10, 2, codec=codec), "already_efficient") for codec in EFFICIENT_CODECS),
        (video(10, 2, codec=None), "cold_compress"),  # it is looked at before it is encoded
        (video(31, 0, codec="av1"), "cold_retire"),
        (video(10, 2, refused_recipe=RECIPE), "refused_before"),
        (video(10, 2, refused_recipe="recipe-before"), "cold_compress"),
        (video(10, 2, refused_recipe=mark_of_month(RECIPE, AS_OF)), "refused_before"),
        (video(10, 2, refused_recipe=mark_of_month(RECIPE, AS_OF - timedelta(days=31))), "cold_compress"),
        (video(31, 0, refused_recipe=RECIPE), "cold_retire"),
        (video(10, 2, compressed=True), "compressed_before"),  # in a codec that the recipe takes
        (video(10, 2, compressed=True, refused_recipe="recipe-before"), "compressed_before"),
        (video(31, 0, compressed=True), "cold_retire"),
        (video(366, 9, kept_until=AS_OF + SECOND), "kept_on_request"),
        (video(366, 9, kept_until=AS_OF), "past_retention"),
        (video(31, 0, kept_until=AS_OF + SECOND), "kept_on_request"),
        (video(31, 0, kept_until=AS_OF), "cold_retire"),
        (video(10, 2, kept_until=AS_OF + SECOND), "cold_compress"),
    ],
)
def test_every_boundary(judged: Video, expected: str) -> None:
    assert rule(judged) == expected


def test_videos_that_do_not_pay_are_kept_with_the_calculation() -> None:
    """A free user's video of ten days has 20 left, a pro user's 355 if it stays unwatched, and 7 of grace."""
    appraise = partial(unopened, "av1", Payback(cpu_usd_per_hour=Decimal("0.04")), SearchTotals())
    short, long = (video(10, 2, tier)._replace(size_bytes=20_000_000) for tier in ("free", "pro"))
    kept = judge(short, DEFAULT, SHIPPED, AS_OF, RECIPE, appraise)
    assert (kept.action, kept.rule) == (Action.KEEP, "does_not_pay")
    assert reason(kept) == snapshot(
        "2 views in 30 days, 10 days old, but an encode would cost more than it saves; it is expected to save 0.000106 USD and to cost 0.000776 USD: 13.00 MB less for 27 days, and the original's 20.00 MB more for 7 days at 0.015 USD a GB-month; 69.3 CPU s at 0.04 USD an hour, requests 0.000006 USD; at best 0.000099 USD are left over, so it may be tried until 200 searches have shown what clips here keep"
    )
    stays = LifecyclePolicy(retire_below_views=None)
    done = judge(long, stays, SHIPPED, AS_OF, RECIPE, appraise)
    assert (done.action, done.rule) == (Action.COMPRESS, "cold_compress")
    saving = of_verdict(done, DEFAULT, SHIPPED, AS_OF, Payback(horizon_days=365))
    assert saving.month_microusd == 195
    assert saving.net_microusd == 1487  # 13 MB less for 362 days, 20 MB more for 7, 71 CPU s
    assert reason(done) == snapshot(
        "2 views in 30 days, 10 days old: compressed below 5 views after 7 days"
    )  # a table's cell


def test_a_retirement_saves_all_bytes_for_the_rest_of_the_videos_life() -> None:
    cold = judge(video(31, 0)._replace(size_bytes=1_000_000_000), DEFAULT, SHIPPED, AS_OF, RECIPE)
    assert of_verdict(cold, DEFAULT, SHIPPED, AS_OF, Payback(horizon_days=365)) == (15_000, 15_000 * (365 - 31) // 30)
    past = judge(video(31, 9, "free")._replace(size_bytes=1_000_000_000), DEFAULT, SHIPPED, AS_OF, RECIPE)
    assert of_verdict(past, DEFAULT, SHIPPED, AS_OF, Payback(horizon_days=365)) == (15_000, None)


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (video(None, 0), "unknown_age"),
        (video(9, 0)._replace(created_at=datetime(2020, 1, 1)), "unknown_age"),  # noqa: DTZ001  a time without a zone
        (video(100, None), "unknown_views"),
        (video(100, -1), "unknown_views"),
        (video(400, None), "past_retention"),  # retention does not look at views
        (video(400, 0, None), "unknown_tier"),
        (video(400, 0, "enterprise"), "unknown_tier"),
        (video(400, 0, "FREE"), "unknown_tier"),
        (video(-1, 0), "future_created"),
        (video(0)._replace(created_at=AS_OF + SECOND), "future_created"),
    ],
)
def test_unknown_is_not_zero(judged: Video, expected: str) -> None:
    assert rule(judged) == expected


def test_a_hold_beats_everything() -> None:
    assert {
        rule(video(age, 0, tier, held=True)) for age in (None, -1, 1, 31, 4000) for tier in (*SHIPPED.names, None)
    } == {"held"}


def test_precedence_is_retention_then_retire_then_compress() -> None:
    cold_and_expired = video(31, 0, "free")
    no_retire = LifecyclePolicy(retire_below_views=None)
    nothing = no_retire.model_copy(update={"compress_below_views": None})
    assert rule(cold_and_expired) == "past_retention"
    ordered = ["cold_retire", "cold_compress", "cold_rules_off"]
    assert [rule(cold_and_expired, policy, FOR_EVER) for policy in (DEFAULT, no_retire, nothing)] == ordered


def test_time_zones_are_understood() -> None:
    there = (AS_OF - timedelta(days=30)).astimezone(timezone(timedelta(hours=9)))
    assert rule(video(tier="free", created_at=there)) != "past_retention"
    assert rule(video(tier="free", created_at=there - SECOND)) == "past_retention"
    with pytest.raises(ValueError, match="as_of="):
        judge(video(), DEFAULT, SHIPPED, datetime(2026, 11, 24), RECIPE)  # noqa: DTZ001  that is what is refused


def test_the_recipe_says_which_codecs_are_left_alone() -> None:
    cold = [video(10, 0, codec=codec) for codec in ("hevc", "av1", "h264")]
    judged = verdicts(cold, DEFAULT, SHIPPED, AS_OF, RECIPE, efficient_codecs=["av1"])
    assert [verdict.rule for verdict in judged] == ["cold_compress", "already_efficient", "cold_compress"]


@pytest.mark.parametrize("value", [0, -1, True, 5.0, 5.5, float("nan"), float("inf"), "5", 10**10])
@pytest.mark.parametrize(
    "field", sorted({*LifecyclePolicy.model_fields} - {"compress_usd_per_day", "count_deleted_until_purged"})
)
def test_a_threshold_is_a_whole_number_within_bounds(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        LifecyclePolicy.model_validate({field: value})


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "dear", "0.0000001", 10**7])
def test_dollars_a_day_are_more_than_none_and_no_finer_than_a_micro_dollar(value: object) -> None:
    with pytest.raises(ValidationError):
        LifecyclePolicy.model_validate({"compress_usd_per_day": value})


def test_a_misspelt_threshold_is_refused_and_each_one_is_described() -> None:
    with pytest.raises(ValidationError, match="retire_after_day"):
        LifecyclePolicy.model_validate({"retire_after_day": 9})
    assert all(field.description for field in LifecyclePolicy.model_fields.values())
    with pytest.raises(ValidationError, match="frozen"):
        setattr(DEFAULT, "grace_days", 1)  # noqa: B010  the type checker forbids the plain way, too


def test_a_policy_that_contradicts_itself_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"retire_after_days=7 .*compress_below_views=5"):
        LifecyclePolicy(retire_below_views=5, retire_after_days=7)


def test_an_empty_policy_is_refused_for_acting() -> None:
    no_cold = LifecyclePolicy(compress_below_views=None, retire_below_views=None)
    with pytest.raises(PolicyRefused, match=r"empty policy.*tier_storage"):
        no_cold.require_active("tier_storage")
    LifecyclePolicy(retire_below_views=None).require_active("tier_storage")
    with pytest.raises(PolicyRefused, match=r"empty policy.*expire_videos"):
        FOR_EVER.require_retention("expire_videos")
    tiers(free={"retention_days": 5}).require_retention("expire_videos")


@pytest.mark.parametrize(
    ("judged", "sentence"),
    [
        (video(45, 0), snapshot("0 views in 30 days, 45 days old: retired below 1 view after 30 days")),
        (video(10.9, 1), snapshot("1 view in 30 days, 10 days old: compressed below 5 views after 7 days")),
        (
            video(20, None),
            snapshot(
                "some views of the last 30 days are not recorded, so none count until all are: pro users' videos are "
                "kept for 365 days"
            ),
        ),
        (
            video(2.5, 9),
            snapshot(
                "2 days and 12 hours old: pro users' videos are kept for 365 days, and its views do not count until it "
                "is older than 7 days"
            ),
        ),
        (video(31, 9, "free"), snapshot("31 days old: free users' videos are kept for 30 days")),
        (
            video(1, 9),
            snapshot(
                "1 day old: pro users' videos are kept for 365 days, and its views do not count until it is older than "
                "7 days"
            ),
        ),
        (video(9, 1, codec="av1"), snapshot("1 view in 30 days, 9 days old, but already encoded as av1")),
        (video(9, 1, None), snapshot("its user's tier is not recorded: kept until the tier is known")),
        (video(9, 1, "{x}"), snapshot("tier '{x}' is not one of free, premium, pro: kept until the tier is known")),
    ],
)
def test_the_sentence_a_person_reads(judged: Video, sentence: str) -> None:
    assert reason(judge(judged, DEFAULT, SHIPPED, AS_OF, RECIPE)) == sentence


def test_the_sentence_of_what_is_left() -> None:
    expired, small, large = video(40, 9, "free"), video(size_bytes=1), video(size_bytes=2)
    (left,) = for_tiering(verdicts([expired], DEFAULT, SHIPPED, AS_OF, RECIPE))
    assert reason(left) == snapshot("left to expire_videos: 40 days old: free users' videos are kept for 30 days")
    first, last = largest_first(verdicts([small, large], DEFAULT, SHIPPED, AS_OF, RECIPE), 1)
    assert (first.video, last.video) == (small, large)
    assert reason(first) == snapshot(
        "left to the next run, not among the 1 largest: 2 views in 30 days, 10 days old: compressed below 5 views after 7 days"
    )
    assert reason(Verdict(small, Action.KEEP, "made_by_hand")) == "made by hand"


def test_videos_beyond_the_days_dollars_are_left_to_another_day_largest_first() -> None:
    def worth(size_bytes: int, _: Stay) -> Worth:
        return Worth(size_bytes, 9_999, 90.0 * size_bytes, Payback())  # 1,000 micro-dollars a byte, and 6 for requests

    videos = [video(10, 1, size_bytes=size) for size in (1, 3, 2, 4)]
    judged = [*verdicts(videos, DEFAULT, SHIPPED, AS_OF, RECIPE, worth=worth)]
    assert {verdict.rule for verdict in largest_first(judged, 9)} == {"does_not_pay"}
    judged = [verdict._replace(action=Action.COMPRESS, rule="cold_compress") for verdict in judged]
    planned = [(v.video.size_bytes, v.rule) for v in largest_first(judged, 9, 6_000)]
    assert planned == [
        (4, "cold_compress"),
        (3, "left_to_another_day"),
        (2, "left_to_another_day"),
        (1, "cold_compress"),
    ]
    left = [*largest_first(judged, 9, 6_000)][1]
    assert reason(left) == snapshot(
        "left to another day: it is expected to cost $0.0030, and $0.0020 of today's compress_usd_per_day is left; 1 view in 30 days, 10 days old: compressed below 5 views after 7 days"
    )
    assert all(v.action is Action.COMPRESS for v in largest_first(judged, 9, None))


@pytest.mark.parametrize(
    ("one", "rule"),
    [
        (video(2, 0), "within_retention"),
        (video(100, None), "within_retention"),
        (video(100, 9), "within_retention"),
        (video(100, 2, compressed=True), "within_retention"),
        (video(100, 2), "within_retention"),
        (video(100, 0), "left_to_tier_storage"),
        (video(100, None, held=True), "held"),
        (video(400, None), "past_retention"),
    ],
)
def test_an_expiry_keeps_by_retention_what_tiering_keeps_by_views(one: Video, rule: str) -> None:
    """Of a video of unknown views it read as if they kept it from an expiry, too."""
    (verdict,) = for_expiry([judge(one, DEFAULT, SHIPPED, AS_OF, RECIPE)])
    assert verdict.rule == rule
