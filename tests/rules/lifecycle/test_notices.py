"""Videos that wait for notice, notices to give, and notices that lapse."""

from collections.abc import Iterable
from datetime import timedelta

import pytest
from inline_snapshot import snapshot

from reelkeeper.model import Action, Notice, Verdict, Video
from reelkeeper.rules.core.tiers import SHIPPED, Tiers
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, verdicts
from reelkeeper.rules.lifecycle.notices import Given, reason, with_notices
from reelkeeper.rules.lifecycle.selection import for_expiry, for_tiering
from tests.rules.videos import AS_OF, RECIPE, SECOND, video
from tests.tiers import tiers

POLICY = LifecyclePolicy()
TOLD = tiers(pro={"notice_days": 14})
DAY = timedelta(days=1)
FORTNIGHT = 14 * DAY


def notice(
    told_days: float | None = 15, expires_in: timedelta = -DAY, *, tier: str = "pro", is_lost: bool = False
) -> Notice:
    """A notice that was given to all so many days ago; None: it is under way."""
    told_at = None if told_days is None else AS_OF - timedelta(days=told_days)
    return Notice("v1", tier, AS_OF + expires_in, told_at, is_lost)


def judged(
    *videos: Video, promised: Tiers = TOLD, notices: Iterable[Notice] = (), has_endpoint: bool = True
) -> list[Verdict]:
    given = Given({item.video_id: item for item in notices}, has_endpoint)
    return list(with_notices(verdicts(videos, POLICY, promised, AS_OF, RECIPE), POLICY, promised, AS_OF, given))


def one(judged_video: Video, *notices: Notice, has_endpoint: bool = True) -> tuple[str, str]:
    (verdict,) = judged(judged_video, notices=notices, has_endpoint=has_endpoint)
    return verdict.action.value, verdict.rule


@pytest.mark.parametrize(
    ("age_days", "views", "expected"),
    [
        (366, 9, ("notify", "past_retention_soon")),
        (352, 9, ("notify", "past_retention_soon")),  # due within 14 days
        (350, 9, ("keep", "still_watched")),
        (31, 0, ("notify", "cold_retire_soon")),
        (17, 0, ("notify", "cold_retire_soon")),  # for once not compressed
        (15, 0, ("compress", "cold_compress")),
        (17, 1, ("compress", "cold_compress")),
    ],
)
def test_a_video_due_within_the_days_of_notice_gets_notice(
    age_days: float, views: int, expected: tuple[str, str]
) -> None:
    assert one(video(age_days, views)) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (notice(None), ("keep", "notice_not_delivered")),
        (notice(14, -SECOND), ("retire", "past_retention")),
        (notice(13.99, -SECOND), ("keep", "notice_running")),
        (notice(15, SECOND), ("keep", "notice_running")),  # it said a day, and that is not over
        (notice(15, tier="free"), ("withdraw", "notice_lapsed")),
        (notice(None, is_lost=True), ("withdraw", "notice_lapsed")),
    ],
)
def test_a_due_video_waits_until_its_notice_is_over(found: Notice, expected: tuple[str, str]) -> None:
    assert one(video(366, 9), found) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (video(100, 9), ("withdraw", "notice_lapsed")),
        (video(366, 9, held=True), ("withdraw", "notice_lapsed")),
        (video(366, 9, kept_until=AS_OF + 15 * DAY), ("withdraw", "notice_lapsed")),
        (video(31, 0, kept_until=AS_OF + 13 * DAY), ("keep", "kept_on_request")),  # due again within the notice
        (video(366, 9, "free"), ("retire", "past_retention")),  # who was promised none
        (video(20, 9, "free"), ("withdraw", "notice_lapsed")),
    ],
)
def test_a_notice_lapses_where_its_video_is_no_longer_due(seen: Video, expected: tuple[str, str]) -> None:
    assert one(seen, notice()) == expected


@pytest.mark.parametrize("unknown", [{"views": None}, {"created_at": None}, {"created_at": AS_OF + DAY}])
def test_figures_unknown_for_a_night_end_no_notice(unknown: dict[str, object]) -> None:
    action, _ = one(video(31, 0)._replace(**unknown), notice())  # type: ignore[arg-type]  # columns
    assert action == "keep"


def test_without_an_endpoint_nothing_is_retired_and_no_notice_given() -> None:
    assert one(video(366, 9), has_endpoint=False) == ("keep", "notice_no_endpoint")
    assert one(video(352, 9), has_endpoint=False) == ("keep", "still_watched")
    assert one(video(366, 9), notice(), has_endpoint=False) == ("retire", "past_retention")  # it had been given to all


def test_without_promised_notice_verdicts_are_unchanged() -> None:
    stream = iter(())
    assert with_notices(stream, POLICY, SHIPPED, AS_OF, Given({}, has_endpoint=False)) is stream
    kept = judged(video(100, 9), promised=SHIPPED, notices=[notice()])
    assert [verdict.action for verdict in kept] == [Action.WITHDRAW]  # the policy promised notice before


def test_each_flow_gives_notice_of_its_own_retirements() -> None:
    both = judged(video(366, 9), video(31, 0))
    assert [verdict.rule for verdict in for_expiry(both)] == ["past_retention_soon", "left_to_tier_storage"]
    assert [verdict.rule for verdict in for_tiering(both)] == ["left_to_expire_videos", "cold_retire_soon"]


def test_videos_waiting_for_notice_are_counted_by_the_flow_that_would_retire_them() -> None:
    both = judged(video(366, 9), video(31, 0), has_endpoint=False)
    assert [verdict.rule for verdict in for_expiry(both)] == ["notice_no_endpoint", "left_to_tier_storage"]
    assert [verdict.rule for verdict in for_tiering(both)] == ["left_to_expire_videos", "notice_no_endpoint"]


def test_the_reason_names_the_day_and_the_age_of_today() -> None:
    (told,) = judged(video(352, 9))
    assert reason(told) == snapshot(
        "notice of 14 days, retired on 2026-12-08 at the earliest: 352 days old: pro users' videos are kept for 365 days"
    )
    (running,) = judged(video(366, 9), notices=[notice(4)])
    assert reason(running) == snapshot(
        "told of, and not retired before 2026-12-04: 366 days old: pro users' videos are kept for 365 days"
    )
    (lapsed,) = judged(video(100, 9), notices=[notice()])
    assert reason(lapsed) == snapshot("its notice lapses: no longer due, of another tier, or its message is gone")
