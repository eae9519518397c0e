"""Simulated policies give the same result as a replay that judges every video every night."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model import SearchTotals, Video
from reelkeeper.rules.core.tiers import SHIPPED, Tiers
from reelkeeper.rules.lifecycle.lifecycle import Appraise, Judge, LifecyclePolicy, judging
from reelkeeper.rules.lifecycle.selection import fit
from reelkeeper.rules.lifecycle.transcode import MAX_BYTES_IN_PLACE, Placement, Recipe
from reelkeeper.rules.lifecycle.worth import Payback, unopened
from reelkeeper.rules.policies import DEFAULTS, Policies
from reelkeeper.simulation.lifecycle import KEEP, Course, Outcome, Record, Span, Views, simulate
from reelkeeper.simulation.lifecycle_fates import Trial, try_policies
from tests.simulation.replayed import Replay, Seen, midnight, replay
from tests.tiers import FOR_EVER, tiers

TODAY = date(2026, 11, 24)
NOW = datetime(2026, 11, 24, 2, tzinfo=UTC)
DAY = timedelta(days=1)
EVERY_DAY = frozenset(TODAY - n * DAY for n in range(1, 120))
LEARNT = SearchTotals(searches=3, accepted=2, source_bytes=90_000_000, kept_bytes=40_000_000, cpu_seconds=31.0)
USUAL = Payback()


def rules(kept: Tiers = SHIPPED, **fields: Any) -> Policies:  # noqa: ANN401  of the lifecycle
    return DEFAULTS.model_copy(update={"tiers": kept, "lifecycle": LifecyclePolicy(**fields)})


def trial(
    policies: Policies, payback: Payback = USUAL, *, days: tuple[int | None, ...] = (None,), contract: bool = True
) -> Trial:
    as_of, worth = midnight(TODAY), appraise(payback)
    return try_policies("tried", at(policies, payback), as_of, "r1", worth, days, keeps_contract=contract)


def at(policies: Policies, payback: Payback) -> Policies:
    """Return policies that leave some codecs alone and take this payback."""
    recipe = Recipe(skip_codecs=("av1", "vp9"), payback=payback, placement=policies.recipe.placement)
    return policies.model_copy(update={"recipe": recipe})


def appraise(payback: Payback) -> Appraise:
    return partial(unopened, "h264", payback, LEARNT)


def rule(policies: Policies, payback: Payback, as_of: datetime, *, contract: bool = True) -> Judge:
    recipe = at(policies, payback).recipe
    judge = judging(policies.lifecycle, policies.tiers, as_of, "r1", frozenset(recipe.skip_codecs), appraise(payback))
    return lambda video: fit(judge(video), recipe.place, keeps_contract=contract)


def run(
    videos: Iterable[Seen],
    tried: Trial,
    span: Span,
    recorded: frozenset[date] = EVERY_DAY,
    *,
    uploads: bool = True,
    leaving: Mapping[date, int] | None = None,
) -> Outcome:
    """Simulate in batches of two videos, those of one user in a row."""
    ordered = sorted(videos, key=lambda seen: (seen.video.user_id, seen.video.id))
    born = [seen.video.created_at.date() for seen in ordered if seen.video.created_at]
    return simulate(
        [tried],
        [(ordered[place : place + 2], views(ordered[place : place + 2])) for place in range(0, len(ordered), 2)],
        span,
        Record(recorded, min(born, default=TODAY), leaving or {}),
        uploads=uploads,
    )


def views(batch: Sequence[Seen]) -> Views:
    rows = [(place, day.toordinal(), n) for place, seen in enumerate(batch) for day, n in seen.viewed.items()]
    return Views(*zip(*rows, strict=True)) if rows else Views((), (), ())


def play(
    videos: Sequence[Seen],
    policy: Policies,
    payback: Payback,
    span: Span,
    recorded: frozenset[date] = EVERY_DAY,
    *,
    infrequent_after: int | None = None,
    uploads: bool = True,
    contract: bool = True,
) -> Replay:
    judging, in_place = partial(rule, policy, payback, contract=contract), policy.recipe.place == "in_place"
    grace, rest = policy.lifecycle.grace, {"uploads": uploads, "in_place": in_place}
    return replay(videos, judging, grace, "h264", span, recorded, infrequent_after=infrequent_after, **rest)


def check(course: Course, played: Replay) -> None:
    bills = played.bills()
    assert [(month.month, month.r2_usd) for month in course.months] == list(bills.items())
    for month in course.months:
        named = f"{month.month:%Y-%m}"
        assert month.stored_bytes == played.ends[max(day for day in played.ends if f"{day:%Y-%m}" == named)]
        assert month.compressed == played.compressed[named]
        assert (month.class_a, month.class_b, month.retrieved_bytes) == played.operations(month.month)
        assert month.cpu_seconds == round(played.cpu_ms[named] / 1000)
        retired = {tier: count for (at, tier), count in played.retired.items() if at == named}
        assert {tier: count for tier, count in month.retired.items() if count} == retired
    regret = course.regret
    assert (regret.views, regret.videos, regret.users) == (played.views.total(), len(played.met), len(played.users))
    assert regret.by_tier == played.views


moments = st.builds(
    lambda ago, second: midnight(TODAY) - ago * DAY + timedelta(seconds=second),
    st.integers(0, 110),
    st.sampled_from([0, 1, 43_200, 86_399]),
)
later = st.builds(
    lambda ahead, second: midnight(TODAY) + ahead * DAY + timedelta(seconds=second),
    st.integers(-60, 60),
    st.sampled_from([0, 3_600]),
)
largest = st.sampled_from([MAX_BYTES_IN_PLACE, MAX_BYTES_IN_PLACE + 1, 4 * 10**10, 7 * 10**11])
sizes = st.one_of(st.integers(100_000, 3_000_000), st.integers(10**6, 10**8), largest)


@st.composite
def lives(draw: st.DrawFn) -> Seen:
    created_at = draw(st.one_of(moments, moments, moments, st.none(), st.just(NOW + 20 * DAY)))
    removed_at = removal = None
    if draw(st.integers(0, 3)) == 0:
        removed_at = midnight(TODAY) - draw(st.integers(1, 50)) * DAY + timedelta(hours=5)
        removal = draw(st.sampled_from(["rule", "user", "takedown"]))
        if created_at is not None and created_at >= removed_at:
            removed_at = removal = None
    viewed = draw(
        st.dictionaries(
            st.integers(0, 90).map(lambda ago: TODAY - ago * DAY),
            st.sampled_from([1, 1, 1, 2, 5, 400_000]),
            max_size=5,
        )
    )
    if removed_at is not None:
        viewed = {day: count for day, count in viewed.items() if day <= removed_at.date()}
    video = Video(
        f"v{draw(st.integers(0, 10**9))}",
        draw(st.sampled_from(["ann", "ben", "cat"])),
        draw(st.sampled_from(["free", "premium", "pro", "gold", None])),
        created_at,
        None,
        False,
        draw(sizes),
        draw(st.sampled_from(["h264", "av1", None])),
        draw(st.sampled_from([None, "r1", "r0"])),
        1,
        1,
        draw(st.booleans()),
        draw(st.one_of(st.none(), later)),
    )
    is_ours, stored_at = draw(st.booleans()), created_at
    video = video._replace(is_ours=is_ours)
    return Seen(video, is_ours, stored_at, draw(st.one_of(st.none(), st.none(), later)), removed_at, removal, viewed)


policies = st.builds(
    lambda compress, retire, after, more, kept, grace: rules(
        compress_below_views=compress,
        compress_after_days=after,
        retire_below_views=retire,
        retire_after_days=after + more,
        kept=tiers(
            free={"retention_days": kept},
            premium={"retention_days": kept and kept + 20},
            pro={"retention_days": None},
        ),
        grace_days=grace,
        grace_days_service_keys=grace + 3,
    ),
    st.sampled_from([None, 1, 3, 6]),
    st.sampled_from([None, 1, 2]),
    st.integers(1, 25),
    st.integers(1, 20),
    st.sampled_from([None, 5, 30, 45]),
    st.integers(1, 9),
)
CHEAP = Payback(cpu_usd_per_hour=Decimal("0.004"))
paybacks = st.sampled_from([USUAL, CHEAP, Payback(cpu_usd_per_hour=None), Payback(horizon_days=40)])


@given(
    videos=st.lists(lives(), min_size=1, max_size=7, unique_by=lambda seen: seen.video.id),
    policy=policies,
    payback=paybacks,
    back=st.sampled_from([0, 0, 1, 17, 45]),
    ahead=st.sampled_from([1, 6, 40, 75]),
    gaps=st.sets(st.integers(1, 80).map(lambda ago: TODAY - ago * DAY), max_size=2),
    infrequent_after=st.sampled_from([None, 1, 20]),
    uploads=st.booleans(),
    placement=st.sampled_from(["in_place", "in_place", "new_key"]),
    contract=st.sampled_from([True, True, True, False]),
)
def test_the_result_of_a_policy_equals_a_replay_night_by_night(
    videos: list[Seen],
    policy: Policies,
    payback: Payback,
    back: int,
    ahead: int,
    gaps: set[date],
    infrequent_after: int | None,
    uploads: bool,
    placement: Placement,
    contract: bool,
) -> None:
    span = Span(TODAY - back * DAY, TODAY, TODAY + ahead * DAY)
    recorded, policy = EVERY_DAY - gaps, policy.overridden(recipe=Recipe(placement=placement))
    tried = trial(policy, payback, days=(infrequent_after,), contract=contract)
    outcome = run(videos, tried, span, recorded, uploads=uploads)
    cold = infrequent_after
    played = play(videos, policy, payback, span, recorded, infrequent_after=cold, uploads=uploads, contract=contract)
    kept, course = outcome.courses
    assert kept.policy == KEEP
    check(course, played)
    assert not any(sum(month.retired.values()) + month.compressed for month in kept.months)
    assert all(
        month.net_usd == same.r2_usd - month.r2_usd - month.cpu_usd
        for month, same in zip(course.months, kept.months, strict=True)
    )


def clip(ago: int, *viewed: int, tier: str = "pro", name: str = "v", user: str = "ann", size: int = 10**9) -> Seen:
    """A video that is so many days old, at noon, and was viewed once on each of some days ago."""
    created_at = midnight(TODAY) - ago * DAY + DAY / 2
    video = Video(name, user, tier, created_at, None, False, size, "av1", None, 1, 1)
    return Seen(video, True, created_at, None, None, None, {TODAY - day * DAY: 1 for day in viewed})


def theirs(seen: Seen) -> Seen:
    """The same at a key of the service's."""
    return seen._replace(video=seen.video._replace(is_ours=False), is_ours=False)


COLD = rules(FOR_EVER, retire_after_days=20)
BACK = Span(TODAY - 40 * DAY, TODAY, TODAY + 7 * DAY)


def test_regret_is_each_view_that_would_have_met_a_video_that_was_retired_by_then() -> None:
    videos = [
        clip(90, 10, 5, 1, name="v1"),  # retired on the first night, as nobody had viewed it
        clip(90, 60, 9, tier="free", name="v2"),  # on the night when its view of 60 days ago is over the window
        clip(90, 50, 25, 4, tier="free", name="v3", user="ben"),  # each within 30 days of the last
        clip(10, 2, name="v4", user="cat"),  # too young
    ]
    regret = run(videos, trial(COLD), BACK).courses[1].regret
    assert (regret.views, regret.videos, regret.users) == (4, 2, 1)
    assert regret.by_tier == {"free": 1, "pro": 3}


def test_unknown_views_never_count_as_none() -> None:
    gap = EVERY_DAY - {TODAY - 20 * DAY}
    outcome = run([clip(90)], trial(COLD), Span(TODAY, TODAY, TODAY + 100 * DAY), gap)
    assert outcome.unknown_views == 1
    assert not any(sum(month.retired.values()) for course in outcome.courses for month in course.months)
    known = run([clip(90)], trial(COLD), Span(TODAY, TODAY, TODAY + 100 * DAY))
    assert known.courses[1].months[0].retired == {"pro": 1}


def test_views_of_a_video_of_today_are_known_and_those_of_today_count_as_in_plans() -> None:
    videos = [clip(0, name="v1"), clip(0, 0, name="v2"), clip(90, 0, name="v3")]
    outcome = run(videos, trial(COLD), Span(TODAY, TODAY, TODAY + 100 * DAY), uploads=False)
    assert outcome.unknown_views == 0
    assert sum(sum(month.retired.values()) for month in outcome.courses[1].months) == 1


def test_views_after_a_retirement_by_a_rule_are_unknown() -> None:
    retired = clip(90, 45)._replace(removed_at=midnight(TODAY) - 30 * DAY, removal="rule")
    outcome = run([retired], trial(COLD), BACK)
    assert outcome.unseen == outcome.unknown_views == 1
    assert not any(sum(month.retired.values()) for month in outcome.courses[1].months)  # not due on that day


def test_videos_deleted_by_their_user_go_under_every_policy() -> None:
    deleted = clip(90, 45, 35)._replace(removed_at=midnight(TODAY) - 30 * DAY, removal="user")
    for course in run([deleted], trial(COLD), BACK).courses:
        assert [month.stored_bytes for month in course.months] == [10**9, 0]
        assert course.regret.views == 0


def test_bytes_in_their_grace_are_billed_until_its_end() -> None:
    after = run([], trial(COLD), Span(TODAY, TODAY, date(2026, 12, 1)), leaving={TODAY + 2 * DAY: 10**12})
    (month,) = after.courses[0].months
    assert month.stored_bytes == 0
    assert month.r2_usd == Decimal("1.86")  # 1,000 GB on 4 of 30 days: 133.3 GB-months, 10 of them free, in whole ones


def test_a_compressed_video_stores_both_versions_until_the_grace_is_over() -> None:
    big = clip(90, *range(1, 4), size=10**9)
    source = big._replace(video=big.video._replace(codec="h264"))
    (_, course) = run([source], trial(COLD), Span(TODAY, TODAY, date(2027, 1, 1)), uploads=False).courses
    november, december = course.months
    assert (november.compressed, november.cpu_seconds > 0, november.cpu_usd > 0) == (1, True, True)
    assert december.stored_bytes < 10**9 < november.stored_bytes


def test_uploads_come_again_or_nothing_more_does() -> None:
    young = [clip(3, name="v1"), clip(20, name="v2")]
    kept = rules(compress_below_views=None, retire_below_views=None)
    span = Span(TODAY, TODAY, date(2027, 1, 1))
    for uploads, most in ((True, 4), (False, 2)):
        assert run(young, trial(kept), span, uploads=uploads).courses[0].months[-1].stored_bytes == most * 10**9


def test_holds_and_requests_to_keep_put_off_what_is_due_until_the_night_after_them() -> None:
    until = [midnight(TODAY) + days * DAY + hours * DAY / 24 for days in range(-45, 12, 4) for hours in (0, 5)]
    codecs = {"h264": 40, "av1": 60}  # one is compressed, and retired later
    videos = [
        seen
        for number, at in enumerate(until)
        for codec, ago in codecs.items()
        for seen in (
            _named(clip(ago, tier="premium", size=10**7), f"h{number}{codec}", codec)._replace(held_until=at),
            _named(clip(ago, tier="free", size=10**7), f"k{number}{codec}", codec, kept_until=at),
        )
    ]
    kept = tiers(free={"retention_days": 58}, premium={"retention_days": None}, pro={"retention_days": None})
    policy = rules(kept, retire_after_days=55)
    for span in (BACK, Span(TODAY, TODAY, TODAY + 20 * DAY)):
        outcome = run(videos, trial(policy, CHEAP), span)
        played = play(videos, policy, CHEAP, span)
        check(outcome.courses[1], played)
        assert played.retired.total() > 10 < played.compressed.total()


def _named(seen: Seen, name: str, codec: str, *, kept_until: datetime | None = None, tag: str | None = None) -> Seen:
    return seen._replace(video=seen.video._replace(id=name, codec=codec, kept_until=kept_until, tag=tag))


@pytest.mark.parametrize("removal", ["rule", "user", "takedown"])
def test_compressed_videos_are_retired_or_removed_on_any_later_night(removal: str) -> None:
    policy = rules(compress_after_days=20, retire_below_views=2, retire_after_days=21, grace_days=9)
    videos = [
        _named(clip(60, *viewed, size=10**7), f"v{ago}{len(viewed)}", "h264")._replace(
            removed_at=midnight(TODAY) - ago * DAY, removal=removal, is_ours=ago % 2 == 0
        )
        for ago in range(1, 39)
        for viewed in ([39], range(max(ago, 3), 60, 9))  # retired the next night, and not
    ]
    videos += [_named(clip(ago, size=10**7), f"w{ago}", "h264") for ago in (16, 17, 18)]
    for cold in (None, 5):
        played = play(videos, policy, CHEAP, BACK, infrequent_after=cold)
        check(run(videos, trial(policy, CHEAP, days=(cold,)), BACK).courses[1], played)
        assert played.compressed.total()


@pytest.mark.parametrize("back", [0, 12])
@pytest.mark.parametrize(("placement", "tier"), [("new_key", "premium"), ("in_place", "pro")])
def test_the_last_byte_decides_whether_an_encode_pays_as_the_rule_rounds_it(
    back: int, placement: Placement, tier: str
) -> None:
    policy = rules(retire_below_views=None).overridden(recipe=Recipe(placement=placement))
    span, judge = Span(TODAY - back * DAY, TODAY, TODAY + 30 * DAY), rule(policy, USUAL, midnight(TODAY))

    def pays(size: int) -> bool:
        video = theirs(clip(40, size=size, tier=tier)).video._replace(codec="h264", views=0)
        return judge(video).action == "compress"

    least, most = 1, 10**8
    while least < most:
        least, most = (least, (least + most) // 2) if pays((least + most) // 2) else ((least + most) // 2 + 1, most)
    sizes = range(least - 60, least + 61)
    videos = [
        _named(theirs(clip(40 + back, size=size, tier=tier, user=f"u{size % 3}")), f"v{size}", "h264") for size in sizes
    ]
    played = play(videos, policy, USUAL, span)
    check(run(videos, trial(policy, USUAL), span).courses[1], played)
    assert 0 < played.compressed.total() < len(videos)


def test_segments_decide_by_tag_and_by_size_also_once_a_video_became_smaller() -> None:
    segments = [
        {"name": "drafts", "tags": ["draft"], "retention_days": 12},
        {"name": "large", "min_bytes": 6 * 10**6, "compress_after_days": 3, "retire_below_views": "never"},
        {"name": "small", "max_bytes": 5 * 10**6, "retire_after_days": 25},
    ]
    policies = rules(FOR_EVER, segments=segments, retire_after_days=30)
    videos = [
        _named(clip(ago, size=size), f"v{ago}-{size}-{tag}", "h264", tag=tag)
        for ago in (2, 9, 20, 40)
        for size in (4 * 10**6, 8 * 10**6, 40 * 10**6)
        for tag in ("draft", None)
    ]
    for span in (BACK, Span(TODAY, TODAY, TODAY + 40 * DAY)):
        played = play(videos, policies, CHEAP, span)
        check(run(videos, trial(policies, CHEAP), span).courses[1], played)
        assert played.retired.total() > 5 < played.compressed.total()
