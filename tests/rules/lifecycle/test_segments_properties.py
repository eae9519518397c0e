"""Properties of segments, over generated policies: total, the first match decides, monotone, contradictions refused.

Beside the rules stands an oracle that shares nothing with them: every kind of video that the generated conditions can
tell apart is one bit of a number, a condition is the bits of the videos that meet it, and a segment is what all its
conditions have in common.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache
from itertools import combinations, pairwise, product
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reelkeeper.model import Action, Verdict, Video
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle import segments
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, reason, verdicts
from reelkeeper.rules.policies import Policies
from tests.rules.videos import AS_OF, RECIPE, judge, video
from tests.tiers import tiers

MODELS, TAGS = ("sketch-1", "sketch-2", None), ("draft", "final", None)
KEYS: Final = tuple(map("".join, product(("k/a", "k/ab", "k/b", "m/a", "m/ab", "m/b"), (".mp4", ".webm", ".mov"))))
GLOBS: Final = ("k/*", "k/a*", "*.mp4", "*.webm", "?/a.*", "*/a*", "k/a.mp4")
SIZES: Final = (5, 10, 12, 15, 17, 20, 25)
KINDS: Final = tuple(product(MODELS, TAGS, KEYS, SIZES))
ALL: Final = (1 << len(KINDS)) - 1
TIERS: Final = SHIPPED.names
RETENTION: Final = tuple(f"retention_{tier}_days" for tier in TIERS)
SEVERITY: Final = [Action.KEEP, Action.COMPRESS, Action.RETIRE]
UNSET: Final = object()
KEY, SIZE = 2, 3
Document = dict[str, Any]


def some(rng: Random, values: tuple[Any, ...]) -> list[Any]:
    return rng.sample(values, rng.randint(1, 2))


def segment(rng: Random, name: str) -> Document:
    conditions = {
        "models": some(rng, MODELS[:2]),
        "tags": some(rng, TAGS[:2]),
        "key_globs": some(rng, GLOBS),
        "tiers": some(rng, TIERS),
        "min_bytes": rng.choice([10, 15, 20]),
        "max_bytes": rng.choice([10, 15, 20]),
    }
    asked = rng.sample(sorted(conditions), rng.randint(1, 3))
    overrides = {
        "retention_days": rng.choice([UNSET, UNSET, "never", 20, 60, 400]),
        "compress_below_views": rng.choice([UNSET, UNSET, "never", 2, 9]),
        "compress_after_days": rng.choice([UNSET, UNSET, 3, 40]),
        "retire_below_views": rng.choice([UNSET, UNSET, "never", 1, 4]),
        "retire_after_days": rng.choice([UNSET, UNSET, 10, 50]),
    }
    return {
        "name": name,
        **{condition: conditions[condition] for condition in asked},
        **{field: value for field, value in overrides.items() if value is not UNSET},
    }


def document(rng: Random) -> Document:
    kept = sorted((rng.choice([7, 30, 90, 365, None]) for _ in RETENTION), key=lambda days: days or 10**9)
    return {
        "compress_below_views": rng.choice([None, 3, 5]),
        "compress_after_days": rng.choice([7, 20]),
        "retire_below_views": rng.choice([None, 1, 2]),
        "retire_after_days": rng.choice([20, 30]),
        **dict(zip(RETENTION, kept, strict=True)),
        "segments": [segment(rng, f"s{place}") for place in range(rng.randint(0, 5))],
    }


@cache
def bits(column: int, value: object) -> int:
    """Return the kinds of which the model, tag, key or size, by its place in KINDS, is `value`, or is within it."""

    def meets(kind: tuple[Any, ...]) -> bool:
        if isinstance(value, tuple):
            return bool(value[0] <= kind[column] <= value[1])
        return fnmatchcase(kind[column], str(value)) if column == KEY else kind[column] == value

    return sum(1 << place for place, kind in enumerate(KINDS) if meets(kind))


def matched(of: Document, tier: str) -> int:
    """Return the kinds of videos of users of `tier` that a segment matches."""
    found = bits(SIZE, (of.get("min_bytes", 0), of.get("max_bytes", 10**9)))
    for column, name in enumerate(("models", "tags", "key_globs")):
        if name in of:
            any_of = 0
            for value in of[name]:
                any_of |= bits(column, value)
            found &= any_of
    return found if tier in of.get("tiers", TIERS) else 0


def decided(written: Document, tier: str) -> list[int]:
    """Return the kinds that each segment decides about, and at last those that none does."""
    left, found = ALL, []
    for of in written["segments"]:
        found.append(matched(of, tier) & left)
        left &= ~matched(of, tier)
    return [*found, left]


def flat(written: Document, place: int) -> Document:
    """Write the policy of one segment, or of none, as a policy without segments."""
    fields = {name: value for name, value in written.items() if name != "segments"}
    of = dict(written["segments"][place]) if place < len(written["segments"]) else {}
    if "retention_days" in of:
        of |= dict.fromkeys(RETENTION, of["retention_days"])
    return fields | {name: None if of[name] == "never" else of[name] for name in fields if name in of}


def faults(written: Document) -> Iterator[str]:
    """Return a document's contradictions, over all kinds of videos."""
    of, count = written["segments"], len(written["segments"])
    if any(one.get("min_bytes", 0) > one.get("max_bytes", 10**9) for one in of):
        yield "swapped"
    if not all(stands(flat(written, place)) for place in range(count + 1)):
        yield "nothing"
    met = [[matched(one, tier) for tier in TIERS] for one in of]
    for earlier, later in combinations(met, 2):
        if all(less & ~more == 0 for less, more in zip(later, earlier, strict=True)):
            yield "never decides"
    if any(lesser & better for lesser, better in sooner(written, decided)):
        yield "sooner"


def sooner(written: Document, found: Callable[[Document, str], list[int]]) -> Iterator[tuple[int, int]]:
    """Yield what is `found` of two segments by which users of a better tier would lose their videos sooner."""
    kept = [flat(written, place) for place in range(len(written["segments"]) + 1)]
    for (lesser, shorter), (better, longer) in pairwise(zip(TIERS, RETENTION, strict=True)):
        for (one, mine), (other, theirs) in product(
            zip(kept, found(written, lesser), strict=True), zip(kept, found(written, better), strict=True)
        ):
            least, most = one[shorter], other[longer]
            if most is not None and (least is None or most < least):
                yield mine, theirs


def may_be_refused(written: Document) -> bool:
    """Whether segments overlap in what would be a contradiction, were it not that others before them leave nothing.

    That several together leave nothing to a later one is not noticed.
    """

    def met(of: Document, tier: str) -> list[int]:
        return [*(matched(one, tier) for one in of["segments"]), ALL]

    return any(lesser & better for lesser, better in sooner(written, met))


def read(written: Document) -> Policies:
    """Read a document, in which the retention of each tier stands beside the fields of the lifecycle."""
    fields = {name: value for name, value in written.items() if name not in RETENTION}
    kept = {tier: {"retention_days": written[field]} for tier, field in zip(TIERS, RETENTION, strict=True)}
    return Policies(lifecycle=LifecyclePolicy.model_validate(fields), tiers=tiers(**kept))


def verdict_of(one: Video, policies: Policies) -> Verdict:
    return judge(one, policies.lifecycle, policies.tiers, AS_OF, RECIPE)


def stands(written: Document) -> bool:
    try:
        read(written)
    except ValidationError:
        return False
    return True


def kind_of(rng: Random) -> tuple[int, Video]:
    """Return a video, and the place of its kind."""
    place = rng.randrange(len(KINDS))
    model, tag, key, size = KINDS[place]
    age, views = rng.choice([2, 8, 15, 25, 35, 55, 80, 390, 500]), rng.randint(0, 10)
    tier = rng.choice(TIERS)
    return place, video(age + rng.random(), views, tier, model=model, tag=tag, key=key, size_bytes=size)


def check(rng: Random, videos: int) -> str:
    """Hold one generated policy against the oracle; return the first fault, "" for a policy that stands."""
    written = document(rng)
    wrong = [*faults(written)]
    if not stands(written):
        assert wrong or may_be_refused(written), "refused without a reason"
        return wrong[0] if wrong else "covered by several"
    assert not wrong, f"not refused: {wrong}"
    policies = read(written)
    policy = policies.lifecycle
    for _ in range(videos):
        place, one = kind_of(rng)
        by = next(n for n, kinds in enumerate(decided(written, one.tier or "")) if kinds >> place & 1)
        (verdict,) = verdicts([one], policy, policies.tiers, AS_OF, RECIPE)
        alone = verdict_of(one, read(flat(written, by)))
        assert (verdict.action, verdict.rule) == (alone.action, alone.rule)
        name = None if by == len(written["segments"]) else f"s{by}"
        assert segments.of_verdict(verdict) == policy.segment_of(one) == name
        assert reason(verdict) == (f"segment {name}: " if name else "") + reason(alone)

        older, days = timedelta(days=rng.choice([0, 1, 30, 400])), rng.randint(0, 3)
        worse = one._replace(
            created_at=one.created_at and one.created_at - older, views=None if one.views is None else one.views - days
        )
        if worse.views is not None and worse.views >= 0:
            later = verdict_of(worse, policies)
            assert SEVERITY.index(later.action) >= SEVERITY.index(verdict.action)
            assert segments.of_verdict(later) == name
    return ""


@given(st.integers(0, 2**63))
def test_a_generated_policy_is_refused_for_a_reason_or_decides_by_the_first_match(seed: int) -> None:
    check(Random(seed), videos=5)


@pytest.mark.long("10,000 policies")
def test_ten_thousand_generated_policies_are_total_monotone_and_free_of_contradiction() -> None:
    rng = Random(14)
    found = [check(rng, videos=4) for _ in range(10_000)]
    counts = Counter(found)
    assert counts[""] > 5_000
    assert min(counts[fault] for fault in ("swapped", "nothing", "never decides", "sooner")) > 500
    assert counts["covered by several"] < 20  # refused, though nothing would be lost


@given(
    st.integers(0, 2**63),
    st.none() | st.sampled_from(["", "enterprise", *TIERS]),
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
    st.integers(0, 10**15),
)
def test_a_video_of_any_kind_gets_one_verdict(
    seed: int, tier: str | None, tag: str | None, key: str | None, size: int
) -> None:
    rng = Random(seed)
    try:
        policies = read(document(rng))
    except ValidationError:
        return
    one = kind_of(rng)[1]._replace(tier=tier, tag=tag, key=key, size_bytes=size)
    (verdict,) = verdicts([one], policies.lifecycle, policies.tiers, AS_OF, RECIPE)
    assert verdict.video is one
    assert segments.of_verdict(verdict) == policies.lifecycle.segment_of(one)
