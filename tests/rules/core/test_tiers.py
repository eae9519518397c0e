"""Any number of tiers, from the cheapest to the most expensive, without contradictions; unknown values."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.errors import PolicyRefused, TierRefused
from reelkeeper.rules.core.tiers import GIB, MAX_TIERS, MIB, SHIPPED, TierPolicy, Tiers
from tests.rules.videos import AS_OF
from tests.tiers import FOR_EVER, any_tiers, tiers


def plain(count: int) -> dict[str, TierPolicy]:
    return {f"t{number}": TierPolicy(retention_days=30, quota_bytes=1) for number in range(count)}


def test_three_are_shipped_with_the_values_that_they_always_had() -> None:
    assert SHIPPED.names == ("free", "premium", "pro")
    assert SHIPPED.retention_days() == {"free": 30, "premium": 90, "pro": 365}
    assert SHIPPED.quota_bytes() == {"free": 100 * MIB, "premium": GIB, "pro": 10 * GIB}
    queue = [(tier.queue_weight, tier.queue_points) for _, tier in SHIPPED.items()]
    assert queue == [(1, 0), (1.5, 100), (2, 200)]
    assert {(tier.notice_days, tier.keep_days) for _, tier in SHIPPED.items()} == {(0, 0)}


@given(any_tiers())
def test_as_many_as_may_be_are_read_back_as_they_were_written_in_their_order(found: Tiers) -> None:
    again = Tiers.model_validate_json(found.model_dump_json())
    assert list(again.items()) == list(found.items())


@given(any_tiers(max_days=400), st.integers(-5, 500))
def test_a_better_tier_never_shortens_a_videos_remaining_life(found: Tiers, age_days: int) -> None:
    created_at = AS_OF - timedelta(days=age_days)
    left = [found.remaining_days(name, created_at, AS_OF) for name in found.names]
    for_ever = 10**6
    assert [for_ever if days is None else days for days in left] == sorted(
        for_ever if days is None else days for days in left
    )


@pytest.mark.parametrize("name", [None, "", "gold", "FREE", "free "])
def test_a_tier_that_is_not_known_has_nothing(name: str | None) -> None:
    assert SHIPPED.get(name) is None
    assert SHIPPED.remaining_days(name, AS_OF, AS_OF) is None
    if name is not None:
        with pytest.raises(TierRefused) as refused:
            SHIPPED.require_known(name)
        assert str(refused.value).replace(repr(name), "NAME") == snapshot(
            "tier NAME is not one of free, premium, pro; nothing was changed"
        )


@pytest.mark.parametrize(
    "name", ["", "Gold", "9lives", "-a", "a-", "a--b", "a b", "a.b", "a\n", "é", "x" * 33, "unknown", "never", "on"]
)
def test_a_name_is_a_short_word_in_lower_case(name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Tiers({name: TierPolicy(retention_days=30, quota_bytes=1)})
    assert refused.value.errors()[0]["msg"].replace(repr(name), "NAME") == snapshot(
        "Value error, NAME is no name of a tier: one has at most 32 lower-case letters, digits, - and _, begins with a letter, and is not one of false, never, no, none, null, off, on, true, unknown, yes"
    )


def test_there_are_at_least_one_and_at_most_twenty() -> None:
    assert len(Tiers(plain(MAX_TIERS)).names) == 20
    for count in (0, 21):
        with pytest.raises(ValidationError) as refused:
            Tiers(plain(count))
        assert refused.value.errors()[0]["msg"].replace(str(count), "COUNT", 1) == snapshot(
            "Value error, COUNT tiers: there must be 1 to 20"
        )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"premium": {"retention_days": 20}}, ["premium.retention_days=20", "free.retention_days=30", "swapped"]),
        ({"free": {"retention_days": None}}, ["premium.retention_days=90", "free.retention_days=never"]),
    ],
)
def test_a_better_tier_that_keeps_for_a_shorter_time_is_refused_by_name(
    changed: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ValidationError) as refused:
        tiers(**changed)
    assert all(name in str(refused.value) for name in named)


def test_a_stored_version_with_a_smaller_quota_for_a_better_tier_is_still_read() -> None:
    assert tiers(premium={"quota_bytes": 5}).quota_bytes()["premium"] == 5  # a document is refused: see test_policies


@pytest.mark.parametrize(
    "wrong",
    [
        *({"retention_days": value} for value in (0, -1, True, 5.0, float("nan"), "5", 10**10)),
        *({"notice_days": value} for value in (-1, 366, True, 5.0, float("nan"), "5")),
        *({"keep_days": value} for value in (-1, 366, True, 5.0, float("nan"), "5")),
        *({"quota_bytes": value} for value in (-1, 1.5, None, 10**15 + 1, "5")),
        *({"queue_weight": value} for value in (0.5, 1001, float("nan"), None)),
        *({"queue_points": value} for value in (-1, 1.5)),
        {"retention_day": 5},
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TierPolicy.model_validate({"retention_days": 30, "quota_bytes": 1} | wrong)


def test_a_tier_requires_retention_and_quota_and_each_field_is_described() -> None:
    for missing in ("retention_days", "quota_bytes"):
        with pytest.raises(ValidationError, match=missing):
            TierPolicy.model_validate({name: 30 for name in ("retention_days", "quota_bytes") if name != missing})
    assert all(field.description for field in TierPolicy.model_fields.values())


def test_tiers_that_all_keep_for_ever_are_refused_for_expiry() -> None:
    with pytest.raises(PolicyRefused) as refused:
        FOR_EVER.require_retention("expire_videos")
    assert str(refused.value) == snapshot(
        "empty policy: retention_days of free and premium and pro are all never, so expire_videos could do nothing. Switch one on, or pause the schedule of expire_videos"
    )
    tiers(free={"retention_days": 5}).require_retention("expire_videos")
