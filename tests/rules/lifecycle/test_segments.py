"""Segments: other limits for some videos. The first match decides, and contradictory ones are refused."""

import pickle
import time
from contextlib import nullcontext
from typing import Any

import pytest
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.errors import PolicyRefused
from reelkeeper.model import Video
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle import segments
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, reason, verdicts
from reelkeeper.rules.lifecycle.notices import Given, with_notices
from reelkeeper.rules.lifecycle.notices import reason as reason_of_notice
from reelkeeper.rules.lifecycle.segments import Expected
from reelkeeper.rules.lifecycle.selection import for_expiry, for_tiering
from reelkeeper.rules.policies import DEFAULTS, Policies, exception, parse
from tests.marks import marked
from tests.rules.videos import AS_OF, RECIPE, judge, video
from tests.tiers import FOR_EVER, tiers


def policy(*written: dict[str, Any], **fields: Any) -> LifecyclePolicy:  # noqa: ANN401  of a document
    return LifecyclePolicy.model_validate(fields | {"segments": written})


def whole(*written: dict[str, Any]) -> Policies:
    """Return all policies, with the tiers that are shipped."""
    return Policies(lifecycle=policy(*written))


def kept_days(policies: Policies, judged: Video) -> int | None:
    """Say how long a video is kept, by the segment that decides about it."""
    tier = policies.lifecycle.tiers_for(judged, policies.tiers).get(judged.tier)
    assert tier
    return tier.retention_days


DRAFTS = {"name": "drafts", "tags": ["draft"], "retention_days": 3}
MASTERS = {"name": "masters", "key_globs": ["masters/*"], "retention_days": "never", "retire_below_views": "never"}
LARGE = {"name": "large", "min_bytes": 10**9, "max_bytes": 10**10, "compress_after_days": 1, "retire_after_days": 8}
SKETCHES = {"name": "sketches", "models": ["sketch-1"], "tiers": ["free", "premium"], "compress_below_views": "never"}
POLICY = policy(DRAFTS, MASTERS, LARGE, SKETCHES)


@pytest.mark.parametrize(
    ("judged", "segment", "rule"),
    [
        (video(4, 9, tag="draft"), "drafts", "past_retention"),
        (video(2, 0, tag="draft"), "drafts", "too_young"),
        (video(4, 9, tag="drafts"), None, "too_young"),
        (video(4000, 0, "free", key="masters/one.mp4"), "masters", "cold_compress"),
        (video(4000, 0, "free", key="more/masters/one.mp4"), None, "past_retention"),
        (video(4000, 9, "free", key="masters/one.mp4", tag="draft"), "drafts", "past_retention"),
        (video(9, 0, size_bytes=10**9), "large", "cold_retire"),
        (video(2, 3, size_bytes=10**10), "large", "cold_compress"),
        (video(9, 0, size_bytes=10**9 - 1), None, "cold_compress"),
        (video(9, 0, size_bytes=10**10 + 1), None, "cold_compress"),
        (video(9, 0, "free", model="sketch-1"), "sketches", "too_young"),
        (video(31, 9, "free", model="sketch-1"), "sketches", "past_retention"),
        (video(9, 0, "pro", model="sketch-1"), None, "cold_compress"),
        (video(9, 0, "free", model="sketch-11"), None, "cold_compress"),
        (video(9, 0, None, tag="draft"), "drafts", "unknown_tier"),
        (video(None, 0, tag="draft"), "drafts", "unknown_age"),
        (video(4, None, tag="draft"), "drafts", "past_retention"),
        (video(4, 0, tag="draft", held=True), "drafts", "held"),
    ],
)
def test_the_first_matching_segment_decides_and_is_named(judged: Video, segment: str | None, rule: str) -> None:
    verdict = judge(judged, POLICY, SHIPPED, AS_OF, RECIPE)
    assert (segments.of_verdict(verdict), verdict.rule) == (segment, rule)
    assert reason(verdict).startswith(f"segment {segment}: ") is (segment is not None)


def test_the_name_stays_with_what_is_left_to_another_flow_and_with_a_notice() -> None:
    told, promised = policy(DRAFTS), tiers(pro={"notice_days": 2})
    gone, soon, cold = video(4, 9, tag="draft"), video(2, 9, tag="draft"), video(40, 0, tag="final")
    (left,) = for_tiering(verdicts([gone], told, promised, AS_OF, RECIPE))
    assert (left.rule, segments.of_verdict(left)) == ("left_to_expire_videos", "drafts")
    assert reason(left) == snapshot(
        "left to expire_videos: segment drafts: 4 days old: pro users' videos are kept for 3 days"
    )
    seen = verdicts([gone, soon, cold], told, promised, AS_OF, RECIPE)
    judged = list(with_notices(seen, told, promised, AS_OF, Given({}, has_endpoint=True)))
    found = [(one.rule, segments.of_verdict(one)) for one in for_expiry(judged)]
    expected = [("past_retention_soon", "drafts"), ("past_retention_soon", "drafts"), ("left_to_tier_storage", None)]
    assert found == expected
    assert reason_of_notice(judged[1]) == snapshot(
        "notice of 2 days, retired on 2026-11-26 at the earliest: segment drafts: 2 days old: pro users' videos are kept for 3 days"
    )


def test_unset_fields_of_a_segment_are_as_in_the_policy() -> None:
    some = policy({"name": "sketches", "models": ["sketch-1"], "retire_after_days": 9})
    sketch = Expected("free", "sketch-1", None, 5)
    of_it = some.for_video(sketch)
    assert (of_it.retire_after_days, of_it.compress_after_days) == (9, 7)
    assert some.tiers_for(sketch, SHIPPED) is SHIPPED
    assert some.for_video(Expected("free", "another", None, 5)) is some


def test_an_unknown_property_matches_no_condition() -> None:
    small = policy(
        {"name": "small", "max_bytes": 10, "tags": ["a"]}, {"name": "keyed", "key_globs": ["*a*"], "tags": ["a"]}
    )
    assert small.segment_of(Expected("free", None, "a", 10)) == "small"
    assert small.segment_of(Expected("free", None, "a", None)) is None
    assert small.segment_of(Expected("free", None, "a", None, "a.mp4")) == "keyed"
    assert small.segment_of(Expected("free", None, None, 10, "a.mp4")) is None


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            [{"name": "all", "retention_days": 1}],
            snapshot(
                "Value error, segment all asks nothing, so it would hold for every video: give it one of models, key_globs, tags, tiers, min_bytes, max_bytes, or set the fields of lifecycle itself"
            ),
        ),
        ([{"name": "all", "tags": []}], snapshot("Tuple should have at least 1 item after validation, not 0")),
        (
            [DRAFTS, DRAFTS | {"tags": ["final"]}],
            snapshot("Value error, two segments are named drafts: a plan could not say which of them decided"),
        ),
        (
            [{"name": "x", "tiers": ["gold"]}],
            snapshot("Value error, segment x asks for the tier 'gold'; there are free, premium, pro"),
        ),
        (
            [{"name": "x", "min_bytes": 9, "max_bytes": 3}],
            snapshot("Value error, segment x matches nothing: min_bytes=9 is more than max_bytes=3. Are they swapped?"),
        ),
        ([{"name": "No", "tags": ["a"]}], snapshot("String should match pattern '^[a-z0-9][a-z0-9_-]{0,63}$'")),
        ([{"name": "x", "tags": ["a b"]}], snapshot("String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'")),
        (
            [{"name": "x", "key_globs": ["*"]}],
            snapshot("Value error, glob '*' matches every key, so it says nothing: leave it out"),
        ),
        ([{"name": "x", "tags": ["a"], "retention_days": 0}], snapshot("Input should be greater than or equal to 1")),
        (
            [{"name": "x", "tags": ["a"], "retention_days": "always"}],
            snapshot("Input should be a valid integer, unable to parse string as an integer"),
        ),
        ([{"name": "x", "tags": ["a"], "keeps": 1}], snapshot("Extra inputs are not permitted")),
        (
            [{"name": "x", "tags": ["a"], "retire_below_views": 5, "retire_after_days": 7}],
            snapshot(
                "Value error, in segment x, nothing could ever be compressed: retire_below_views=5 with retire_after_days=7 retires every video that compress_below_views=5 with compress_after_days=7 names. Set compress_below_views to never if that is meant"
            ),
        ),
        (
            [DRAFTS, {"name": "later", "tags": ["draft"], "min_bytes": 5}],
            snapshot(
                "Value error, segment later never decides: drafts stands before it and matches all that it does. Put later first, or ask less of what drafts matches"
            ),
        ),
        (
            [
                {"name": "wide", "key_globs": ["a/*", "b/*"]},
                {"name": "narrow", "key_globs": ["a/b*"], "tiers": ["pro"]},
            ],
            snapshot(
                "Value error, segment narrow never decides: wide stands before it and matches all that it does. Put narrow first, or ask less of what wide matches"
            ),
        ),
        (
            [{"name": "x", "min_bytes": 5}, {"name": "y", "min_bytes": 7, "max_bytes": 9}],
            snapshot(
                "Value error, segment y never decides: x stands before it and matches all that it does. Put y first, or ask less of what x matches"
            ),
        ),
        (
            [{"name": "x", "tiers": ["free", "premium", "pro"]}, DRAFTS],
            snapshot(
                "Value error, segment drafts never decides: x stands before it and matches all that it does. Put drafts first, or ask less of what x matches"
            ),
        ),
        (
            [{"name": "x", "tags": ["a"], "tiers": ["pro"], "retention_days": 40}],
            snapshot(
                "Value error, of the videos that segment x asks for, pro users would lose theirs sooner than premium users: 40 days by segment x, 90 by the policy. Name both tiers in one segment, or give the better one as much"
            ),
        ),
        (
            [{"name": "x", "tags": ["a"], "tiers": ["free"], "retention_days": "never"}],
            snapshot(
                "Value error, of the videos that segment x asks for, premium users would lose theirs sooner than free users: 90 days by the policy, never by segment x. Name both tiers in one segment, or give the better one as much"
            ),
        ),
        (
            [
                {"name": "x", "models": ["m"], "tiers": ["free"], "retention_days": 80},
                {"name": "y", "tags": ["a"], "retention_days": 50},
            ],
            snapshot(
                "Value error, of the videos that segment x and y asks for, premium users would lose theirs sooner than free users: 50 days by segment y, 80 by segment x. Name both tiers in one segment, or give the better one as much"
            ),
        ),
    ],
)
def test_contradictory_segments_are_refused_with_values_and_remedy(written: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        whole(*written)
    assert refused.value.errors()[0]["msg"] == said


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ({"models": ["m"]}, {"models": ["n"]}, False),
        ({"models": ["m"]}, {"models": ["m", "n"]}, True),
        ({"tags": ["a"]}, {"tags": ["b"]}, False),
        ({"tags": ["a"]}, {"models": ["m"]}, True),
        ({"key_globs": ["a/*"]}, {"key_globs": ["b/*"]}, False),
        ({"key_globs": ["a/*"]}, {"key_globs": ["b/*", "a/b*"]}, True),
        ({"key_globs": ["a/*"]}, {"models": ["m"]}, True),
        ({"max_bytes": 4}, {"min_bytes": 5}, False),
        ({"min_bytes": 5}, {"max_bytes": 4}, False),
        ({"max_bytes": 5}, {"min_bytes": 5}, True),
        ({"min_bytes": 5}, {"max_bytes": 5}, True),
        ({"min_bytes": 5}, {"min_bytes": 4}, True),
        ({"max_bytes": 0}, {"models": ["m"]}, True),
    ],
)
def test_two_segments_contradict_each_other_only_by_videos_that_both_match(
    one: dict[str, Any], other: dict[str, Any], meet: bool
) -> None:
    """Of such a video free users would have 80 days by the first, and premium users 50 by the second."""
    longer = {"name": "x", "tiers": ["free"], "retention_days": 80}
    with pytest.raises(ValidationError) if meet else nullcontext():
        whole(longer | one, {"name": "y", "retention_days": 50} | other)


def test_a_better_tier_may_keep_its_drafts_longer_by_a_segment_of_its_own() -> None:
    both = whole(
        {"name": "paid", "tags": ["draft"], "tiers": ["premium", "pro"], "retention_days": 7},
        {"name": "free", "tags": ["draft"], "tiers": ["free"], "retention_days": 3},
    )
    kept = [kept_days(both, video(tier=tier, tag="draft")) for tier in ("free", "premium", "pro")]
    assert kept == [3, 7, 7]


def test_a_document_holds_never_and_leaves_out_what_is_as_the_policy_says() -> None:
    written = {"lifecycle": {"segments": [MASTERS | {"retention_days": "none", "compress_below_views": None}]}}
    found = parse(written)
    assert kept_days(found, video(key="masters/a.mp4")) is None
    assert Policies.model_validate_json(found.model_dump_json()) == found
    assert LifecyclePolicy.model_validate(found.lifecycle.model_dump(mode="json")) == found.lifecycle  # of a saved plan


def test_an_exception_of_one_run_puts_its_segments_in_place_of_those_in_force() -> None:
    one_run = exception(LifecyclePolicy, {"segments": [DRAFTS]})
    changed = parse({"lifecycle": {"segments": [MASTERS]}}).overridden(lifecycle=one_run).lifecycle
    assert [segment.name for segment in changed.segments] == ["drafts"]


def test_a_segment_alone_makes_a_flow_active() -> None:
    policy(DRAFTS).require_retention(FOR_EVER, "expire_videos")
    with pytest.raises(PolicyRefused) as refused:
        policy(MASTERS).require_retention(FOR_EVER, "expire_videos")
    assert marked(refused.value) == snapshot(
        "empty policy: retention_days of free and premium and pro are all never, so expire_videos could do nothing. Switch one on, or pause the schedule of expire_videos"
    )
    cold = {"compress_below_views": None, "retire_below_views": None}
    policy(DRAFTS | {"retire_below_views": 1}, **cold).require_active("tier_storage")
    with pytest.raises(PolicyRefused) as refused:
        policy(DRAFTS, **cold).require_active("tier_storage")
    assert marked(refused.value) == snapshot(
        "empty policy: compress_below_views and retire_below_views are all never, so tier_storage could do nothing. Switch one on, or pause the schedule of tier_storage"
    )


def test_an_exception_of_one_run_is_held_against_the_tiers_in_force() -> None:
    one_run = exception(LifecyclePolicy, {"segments": [DRAFTS | {"tiers": ["studio"]}]})
    with pytest.raises(PolicyRefused) as refused:
        DEFAULTS.overridden(lifecycle=one_run)
    assert str(refused.value) == snapshot(
        "refused, and nothing was changed: with the policies in force, segment drafts asks for the tier 'studio'; there are free, premium, pro"
    )


def test_as_many_segments_as_there_may_be_are_checked_in_a_moment() -> None:
    tiers = [["free"], ["premium", "pro"]]
    most = [
        {"name": f"s{n}", "key_globs": [f"*{n:02}/*{m:02}-*" for m in range(4)], "tiers": tiers[n % 2]}
        for n in range(segments.MAX_SEGMENTS)
    ]
    began = time.process_time()
    assert len(whole(*most).lifecycle.segments) == segments.MAX_SEGMENTS
    assert time.process_time() - began < 3
    with pytest.raises(ValidationError) as refused:
        policy(*most, DRAFTS)
    assert [error["msg"] for error in refused.value.errors()] == snapshot(
        ["Tuple should have at most 50 items after validation, not 51"]
    )


def test_the_cache_of_tags_stays_bounded() -> None:
    choose = segments.chooser(POLICY.segments)
    for n in range(25_000):
        choose(Expected("free", None, f"tag-{n}", 5))
    (known,) = [cell.cell_contents for cell in choose.__closure__ or () if isinstance(cell.cell_contents, dict)]
    assert 1 < len(known) <= 10_000


def test_a_policy_can_be_sent_to_another_process_and_copied_with_other_fields() -> None:
    assert POLICY.segment_of(video(tag="draft")) == "drafts"  # so what is made of its fields is there
    sent = pickle.loads(pickle.dumps(POLICY))  # noqa: S301  our own
    assert sent == POLICY
    assert sent.segment_of(video(tag="draft")) == "drafts"
    copied = POLICY.model_copy(update={"segments": policy(MASTERS).segments, "grace_days": 9})
    assert copied.segment_of(video(tag="draft")) is None
    assert copied.for_video(video(key="masters/one.mp4")).grace_days == 9
    assert dict(POLICY.segments[0])["tags"] == ("draft",)  # as Prefect reads whatever it is given
