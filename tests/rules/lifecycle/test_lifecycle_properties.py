"""Properties of the lifecycle rules, over videos and policies of every kind."""

from collections import Counter
from datetime import timedelta

from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from reelkeeper.model import Action, Video
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.core.wording import SENTENCES
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, reason, verdicts
from reelkeeper.rules.lifecycle.selection import for_expiry, for_tiering, largest_first
from reelkeeper.rules.lifecycle.transcode import EFFICIENT_CODECS
from tests.rules.videos import AS_OF, RECIPE, judge, video
from tests.tiers import any_tiers

AGES = st.none() | st.floats(-10, 5000) | st.sampled_from([7, 30, 90, 365]).map(float)
NAMES = st.none() | st.sampled_from(["free", "premium", "pro", "enterprise", ""])
VIDEOS = st.builds(
    video,
    AGES,
    st.none() | st.integers(-2, 20),
    NAMES,
    held=st.booleans(),
    codec=st.sampled_from([None, "h264", "av1", "vp9"]),
    refused_recipe=st.sampled_from([None, RECIPE, "another"]),
    size_bytes=st.integers(0, 10**12),
)


@st.composite
def policies(draw: st.DrawFn) -> LifecyclePolicy:
    views, days = st.none() | st.integers(1, 20), st.integers(1, 60)
    fields = {
        "compress_below_views": draw(views),
        "compress_after_days": draw(days),
        "retire_below_views": draw(views),
        "retire_after_days": draw(days),
    }
    try:
        return LifecyclePolicy.model_validate(fields)
    except ValidationError:
        assume(False)
        raise


@st.composite
def kept(draw: st.DrawFn) -> Tiers:
    """Some tiers, of which the first few have the names that users of videos have."""
    found = draw(any_tiers(max_days=400))
    names = [*("free", "premium", "pro")[: draw(st.integers(0, 3))], *found.names]
    return Tiers(dict(zip(dict.fromkeys(names), found.root.values(), strict=False)))


@given(VIDEOS, policies(), kept())
def test_every_video_gets_one_verdict_with_a_sentence(judged: Video, policy: LifecyclePolicy, tiers: Tiers) -> None:
    (verdict,) = verdicts([judged], policy, tiers, AS_OF, RECIPE)
    assert verdict == judge(judged, policy, tiers, AS_OF, RECIPE)
    assert verdict.video is judged
    assert verdict.rule in SENTENCES
    acts = {"past_retention": Action.RETIRE, "cold_retire": Action.RETIRE, "cold_compress": Action.COMPRESS}
    assert verdict.action is acts.get(verdict.rule, Action.KEEP)
    for shown in (verdict, *for_tiering([verdict]), *for_expiry([verdict])):
        assert len(reason(shown)) > 10
        assert "None" not in reason(shown) or judged.tier is None or judged.codec is None


@given(VIDEOS, policies(), kept())
def test_held_or_unknown_videos_are_never_touched_as_cold(judged: Video, policy: LifecyclePolicy, tiers: Tiers) -> None:
    verdict = judge(judged, policy, tiers, AS_OF, RECIPE)
    if judged.held or judged.created_at is None or judged.tier not in tiers.names:
        assert verdict.action is Action.KEEP
    if judged.views is None or judged.views < 0:
        assert verdict.rule not in {"cold_retire", "cold_compress"}


@given(VIDEOS, policies(), kept(), st.floats(0, 1000))
def test_growing_older_never_saves_a_video(judged: Video, policy: LifecyclePolicy, tiers: Tiers, days: float) -> None:
    assume(judged.created_at)
    before = judge(judged, policy, tiers, AS_OF, RECIPE)
    after = judge(judged, policy, tiers, AS_OF + timedelta(days=days), RECIPE)
    if before.action is Action.RETIRE:
        assert after.action is Action.RETIRE


@given(VIDEOS, policies(), kept(), st.integers(0, 50))
def test_more_views_never_cost_a_video(judged: Video, policy: LifecyclePolicy, tiers: Tiers, more: int) -> None:
    assume(judged.views is not None and judged.views >= 0)
    severity = [Action.KEEP, Action.COMPRESS, Action.RETIRE]
    watched = judged._replace(views=(judged.views or 0) + more)
    cold, warm = (severity.index(judge(each, policy, tiers, AS_OF, RECIPE).action) for each in (judged, watched))
    assert warm <= cold or judged.codec in EFFICIENT_CODECS or judged.refused_recipe == RECIPE


@given(st.lists(VIDEOS, max_size=30), policies(), kept(), st.integers(1, 5))
def test_a_flow_acts_on_its_own_rules_and_drops_nobody(
    judged: list[Video], policy: LifecyclePolicy, tiers: Tiers, limit: int
) -> None:
    every = list(verdicts(judged, policy, tiers, AS_OF, RECIPE))
    expiring = list(for_expiry(every))
    tiering = list(largest_first(for_tiering(every), limit))
    assert Counter(v.video for v in expiring) == Counter(v.video for v in tiering) == Counter(judged)
    assert {v.rule for v in expiring if v.action is not Action.KEEP} <= {"past_retention"}
    assert {v.rule for v in tiering if v.action is not Action.KEEP} <= {"cold_retire", "cold_compress"}

    compressed = sorted(v.video.size_bytes for v in tiering if v.action is Action.COMPRESS)
    wanted = sorted(v.video.size_bytes for v in every if v.action is Action.COMPRESS)
    assert compressed == wanted[-limit:]
