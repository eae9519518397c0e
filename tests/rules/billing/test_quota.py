"""The quota check: used + reserved + incoming bytes against the quota, refused if anything is unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.errors import AmountRefused
from reelkeeper.model.money import QuotaUse
from reelkeeper.rules.billing.quota import judge, require_bytes
from reelkeeper.rules.core.tiers import MAX_BYTES, SHIPPED, Tiers
from tests.marks import marked
from tests.tiers import any_tiers

MIB, GIB = 2**20, 2**30
BYTES = st.integers(0, 20 * GIB)
STANDINGS = st.builds(
    QuotaUse,
    st.just("ann"),
    st.one_of(st.none(), st.sampled_from([*SHIPPED.names, "gold", ""])),
    BYTES,
    BYTES,
    st.one_of(st.none(), BYTES),
)


@pytest.mark.parametrize(("tier", "quota"), [("free", 100 * MIB), ("premium", GIB), ("pro", 10 * GIB)])
def test_each_tier_may_fill_its_quota_to_the_last_byte(tier: str, quota: int) -> None:
    almost_full = QuotaUse("ann", tier, quota - 30, 20)
    assert judge(almost_full, 10, SHIPPED).can_upload
    refused = judge(almost_full, 11, SHIPPED)
    assert (refused.can_upload, refused.usage_bytes, refused.reserved_bytes, refused.quota_bytes) == (
        False,
        quota - 30,
        20,
        quota,
    )
    figures = refused.reason.replace(f"{quota - 30:,}", "USED").replace(f"{quota:,}", "QUOTA").replace(tier, "TIER")
    assert figures == snapshot(
        "USED bytes used and 20 reserved of QUOTA; 11 more do not fit. Delete videos, or choose a larger tier"
    )


@pytest.mark.parametrize("tier", [None, "", "gold", "FREE"])
def test_an_unknown_tier_may_store_nothing_new_unless_a_person_says_how_much(tier: str | None) -> None:
    answer = judge(QuotaUse("ann", tier, 0, 0), 0, SHIPPED)
    assert (answer.can_upload, answer.quota_bytes) == (False, None)
    assert answer.reason.replace(repr(tier), "TIER") == snapshot(
        "tier TIER of user 'ann' is not one of free, premium, pro, so nothing new can be stored. The request itself is fine: ask the service's support to set the tier"
    )
    assert judge(QuotaUse("ann", tier, 0, 0, 5), 5, SHIPPED).can_upload


def test_an_override_replaces_the_tiers_quota_in_both_directions() -> None:
    assert judge(QuotaUse("ann", "free", 0, 0, 5 * GIB), 4 * GIB, SHIPPED).can_upload
    assert not judge(QuotaUse("ann", "pro", 0, 0, 0), 1, SHIPPED).can_upload


def test_after_a_downgrade_nothing_fits_and_nothing_is_deleted() -> None:
    answer = judge(QuotaUse("ann", "free", 2 * GIB, 0), 0, SHIPPED)
    assert not answer.can_upload
    assert marked(answer.reason) == snapshot(
        "2,147,483,648 bytes used and 0 reserved of 104,857,600: 2,042,626,048 over the quota. Nothing is deleted; delete videos, or choose a larger tier"
    )


@given(STANDINGS, BYTES)
def test_allowed_bytes_never_exceed_the_quota(user: QuotaUse, incoming: int) -> None:
    answer = judge(user, incoming, SHIPPED)
    assert answer.reason
    if answer.can_upload:
        assert answer.quota_bytes is not None
        assert user.used_bytes + user.reserved_bytes + incoming <= answer.quota_bytes
    elif answer.quota_bytes is not None:
        assert user.used_bytes + user.reserved_bytes + incoming > answer.quota_bytes


@given(any_tiers(), st.integers(0, 10**15), st.data())
def test_each_of_any_tiers_may_fill_its_own_quota_and_an_unknown_one_none(
    tiers: Tiers, taken: int, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([*tiers.names, "of no document", None]))
    answer = judge(QuotaUse("ann", name, taken, 0), 0, tiers)
    assert answer.quota_bytes == tiers.quota_bytes().get(name or "")
    assert answer.can_upload == (answer.quota_bytes is not None and taken <= answer.quota_bytes)
    assert answer.quota_bytes is not None or f" {', '.join(tiers.names)}, " in answer.reason


@given(STANDINGS, BYTES, BYTES)
def test_if_more_bytes_fit_fewer_fit(user: QuotaUse, number: int, other: int) -> None:
    less, more = sorted((number, other))
    assert judge(user, less, SHIPPED).can_upload or not judge(user, more, SHIPPED).can_upload


@pytest.mark.parametrize("size", [-1, 1.0, float("nan"), True, "5", MAX_BYTES + 1])
def test_an_invalid_number_of_bytes_is_refused(size: int) -> None:
    with pytest.raises(AmountRefused):
        require_bytes(size)
