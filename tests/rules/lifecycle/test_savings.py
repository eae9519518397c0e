from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.model import Action, Grace, LessByDay, SearchTotals, Verdict, Video
from reelkeeper.model.alerts import Severity
from reelkeeper.rules.billing.cheaper import Cheaper, Repeat, Spent
from reelkeeper.rules.billing.pricing import StandardUsage, Usage
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.savings import Idle, findings, of_verdict, smaller_by_model, survey
from reelkeeper.rules.lifecycle.worth import Payback, Stay, Worth

NOW = datetime(2026, 11, 24, tzinfo=UTC)
GB = 10**9
POLICY = LifecyclePolicy()


def video(age_days: float, views: int | None = 0, **changes: object) -> Video:
    made = Video("v", "ann", "pro", NOW - timedelta(days=age_days), views, False, GB, "h264", None, 1, 1)
    return made._replace(**changes)  # type: ignore[arg-type]  # any field


def usage(gb: int) -> Usage:
    return Usage(standard=StandardUsage(gb_month=Decimal(gb)))


def scopes(idle: Idle, gb: int = 10_000) -> list[str]:
    return [finding.scope for finding in findings(idle, usage(gb))]


def test_seldom_viewed_videos_that_are_not_efficient_are_the_backlog() -> None:
    seen: Iterable[Video] = [
        video(10, views=2),
        video(10, views=9),
        video(40, views=0),  # to be retired
        video(3, views=0),
        video(10, codec="av1"),
        video(10, compressed=True),
        video(10, refused_recipe="recipe"),
        video(10, views=None),
        video(10, held=True),
    ]
    assert survey(seen, POLICY, SHIPPED, NOW).backlog_bytes == GB


def test_the_backlog_has_paying_videos_with_their_net_and_the_others_separately() -> None:
    large, small = video(10, views=2, size_bytes=30 * GB), video(10, views=2, size_bytes=GB)

    def worth(size_bytes: int, stay: Stay) -> Worth:
        return Worth(size_bytes // 2, Payback().days(stay), 1e6 if size_bytes == GB else 1.0, Payback())

    idle = survey([large, small], POLICY, SHIPPED, NOW, worth)
    assert (idle.backlog_bytes, idle.unpaid_bytes) == (30 * GB, GB)
    assert idle.backlog_net_microusd == worth(30 * GB, Stay(355, 7, 20)).net_microusd
    more = replace(idle, backlog_bytes=300 * GB, unpaid_bytes=900 * GB)
    told = {finding.scope: finding for finding in findings(more, usage(10_000))}
    assert set(told) == {"backlog", "cpu"}  # AV1 in place of H.264 would save less than a dollar
    assert told["backlog"].text == snapshot(
        "They are no AV1, VP9 or HEVC yet, and would be about 50 % of their size. Over the rest of their lives, $0.20 net of CPU and requests."
    )


def test_the_saving_of_another_codec_is_suggested_unless_it_is_in_use() -> None:
    idle = Idle(backlog_bytes=1_000 * GB)
    (av1,) = (finding for finding in findings(idle, usage(10_000)) if finding.scope == "codec")
    assert av1.impact_microusd == pytest.approx(500 * (1 - 1 / 1.23) * 0.015 * 1e6, rel=0.01)
    assert av1.text == snapshot(
        "It keeps about 81% of the bytes of h264, for a third more CPU. Apple's devices play it from 2023 on."
    )
    assert "codec" not in {finding.scope for finding in findings(idle, usage(10_000), codec="av1")}


def test_a_video_with_more_than_a_month_to_live_may_go_to_the_cheaper_class() -> None:
    idle = survey([video(40), video(340), video(40, tier="free"), video(29), video(40, views=1)], POLICY, SHIPPED, NOW)
    assert (idle.cold_bytes, idle.cold_objects) == (GB, 1)
    assert idle.by_user == {"ann": 3 * GB}


def test_idle_bytes_are_counted_by_the_segment_of_a_video() -> None:
    segments = [
        {"name": "drafts", "tags": ["draft"], "retention_days": 25, "compress_below_views": "never"},
        {"name": "masters", "tags": ["master"], "retention_days": "never"},
    ]
    policy = LifecyclePolicy.model_validate({"segments": segments})
    draft, master, other = (video(20, tag=tag) for tag in ("draft", "master", None))
    size = other.size_bytes
    drafts, masters, others = (survey([one], policy, SHIPPED, NOW) for one in (draft, master, other))
    assert (drafts.backlog_bytes, masters.backlog_bytes, others.backlog_bytes) == (0, size, size)
    assert (dict(drafts.late_bytes), dict(masters.late_bytes)) == ({str(draft.tier): size}, {})
    saved = {
        one.tag: of_verdict(Verdict(one, Action.RETIRE, "cold_retire"), policy, SHIPPED, NOW, Payback(horizon_days=100))
        for one in (draft, master)
    }
    for_a_day = saved["draft"].net_microusd or 0
    assert saved["master"].net_microusd == pytest.approx(for_a_day / 5 * 100, abs=20)


def test_unknown_or_held_videos_are_not_counted() -> None:
    unknown = [video(400, created_at=None), video(400, tier="gold"), video(400, held=True)]
    assert survey(unknown, POLICY, SHIPPED, NOW) == Idle()


def test_the_largest_saving_comes_first_with_its_dollars() -> None:
    idle = Idle(1000 * GB, 0, 0, {"pro": 4000 * GB}, {"pro": 3000 * GB}, {"ann": 100 * GB})
    found = findings(idle, usage(10_000))
    assert [finding.scope for finding in found] == ["retention:pro", "backlog", "idle", "user:ann", "codec"]
    assert [finding.impact_microusd for finding in found] == [60_000_000, 7_500_000, 1_500_000, 1_500_000, 1_402_439]
    assert found[0].title == snapshot("Keep videos of pro users half as long: $60.00 less a month")
    assert {finding.severity for finding in found} == {Severity.NOTICE}


def test_bytes_within_the_free_allowance_save_nothing() -> None:
    assert scopes(Idle(8 * GB, 0, 0, {"pro": 8 * GB}, by_user={"ann": 8 * GB}), gb=9) == []


def test_the_cheaper_class_is_suggested_only_where_it_pays_with_its_moves() -> None:
    """A move costs $9 for up to a million, and a GB saves $0.005: over three months, 800 GB save a dollar a month."""
    assert scopes(Idle(cold_bytes=790 * GB, cold_objects=20_000)) == []
    assert scopes(Idle(cold_bytes=800 * GB, cold_objects=20_000)) == ["class"]
    large = findings(Idle(cold_bytes=7000 * GB, cold_objects=20_000), usage(10_000))[0]
    assert large.impact_microusd == 35_000_000 - 3_000_000


def test_jobs_that_made_a_video_again_are_worth_what_they_cost() -> None:
    repeated = {
        Repeat.AGAIN: Spent(9, 2_000_000),
        Repeat.NOT_SHARED: Spent(1000, 15_000_000),
        Repeat.RETRIED: Spent(9, 9),
    }
    found = findings(Idle(), Usage(), repeated=repeated)
    assert [(finding.scope, finding.impact_microusd) for finding in found] == [
        ("not_shared", 15_000_000),
        ("again", 2_000_000),
    ]


def test_small_savings_are_not_suggested_and_only_some_users_are_named() -> None:
    idle = Idle(by_user={f"u{n}": (100 + n) * GB for n in range(10)} | {"small": GB})
    assert scopes(idle) == ["idle", "user:u9", "user:u8", "user:u7"]


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 10**6), st.integers(0, 10**5))
def test_no_saving_is_more_than_the_bill(backlog: int, cold: int, objects: int, gb: int) -> None:
    bill_microusd = max(0, gb - 10) * 15_000 + 15_000
    for finding in findings(Idle(backlog, cold, objects), usage(gb)):
        assert 0 < (finding.impact_microusd or 0) <= bill_microusd


def test_a_cheaper_way_to_make_clips_is_suggested_with_its_monthly_saving() -> None:
    ways = [
        Cheaper("veo", "runway", 40, Decimal(12)),
        Cheaper("veo", None, 7, Decimal(3)),
        Cheaper("x", "fal", 1, Decimal("0.5")),
    ]
    told = findings(Idle(), usage(100), ways=ways)
    assert [(finding.scope, finding.title) for finding in told] == [
        ("model:veo:runway", snapshot("Have 40 clips of veo made by runway: $12.00 less a month")),
        ("model:veo:without sound", snapshot("Make 7 clips of veo without sound: $3.00 less a month")),
    ]


def test_compression_is_summed_by_model_and_frame_size_and_saves_once_the_original_is_deleted() -> None:
    hd, sd, day = 1280 * 720, 640 * 360, NOW.date()
    one = SearchTotals(2, 1, 100, 60, 7200.0, 9, 4)
    totals = [("fox", hd, one), ("fox", hd - 2, one), ("fox", sd, one), (None, 4096 * 2160, SearchTotals(1))]
    less = [
        LessByDay("fox", hd, day - timedelta(days=37), None, 10 * GB),  # 30 days beyond the grace
        LessByDay("fox", hd, day - timedelta(days=37), day - timedelta(days=15), 10 * GB),  # 15, then it went
        LessByDay("fox", hd, day - timedelta(days=3), None, 10**12),  # its original is still stored
        LessByDay("fox", hd, day - timedelta(days=9), day - timedelta(days=8), 10**12),  # it went before that
    ]
    found = smaller_by_model(totals, less, grace=Grace(), until=day)
    assert [(item.model, item.frame) for item in found] == [
        ("fox", "to 720p"),
        ("fox", "to 480p"),
        (None, "above 1080p"),
    ]
    assert found[0].totals == SearchTotals(4, 2, 200, 120, 14_400.0, 18, 8)
    assert found[0].saved_microusd == 225_000  # 10 GB for 45 days at $0.015 a GB and 30 days
    assert (found[1].saved_microusd, found[1].totals.net_microusd) == (0, 5)
