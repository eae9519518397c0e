"""Valid requests to the ledger, and when two are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.errors import AmountRefused
from reelkeeper.rules.billing.credits import (
    MAX_MICROUSD,
    MAX_SECONDS,
    OURS,
    fingerprint,
    require_amount,
    require_key,
    require_lasting,
)

PARAMETERS = st.dictionaries(
    st.sampled_from(["user", "amount", "hold"]), st.one_of(st.text(), st.integers(), st.none())
)


@given(st.integers(1, MAX_MICROUSD))
def test_an_integer_up_to_a_million_dollars_is_an_amount(amount: int) -> None:
    require_amount(amount, least=1)


@pytest.mark.parametrize("amount", [0, -1, MAX_MICROUSD + 1, True, 1.0, float("nan"), float("inf"), "5", None])
def test_anything_else_is_refused_with_the_value_and_the_limit(amount: int) -> None:
    with pytest.raises(AmountRefused) as refused:
        require_amount(amount, least=1)
    assert str(refused.value).replace(repr(amount), "AMOUNT", 1) == snapshot(
        "AMOUNT micro-dollars: an amount is an integer from 1 to 1,000,000,000,000; nothing was moved"
    )


def test_a_capture_may_be_of_nothing() -> None:
    require_amount(0, least=0)


@pytest.mark.parametrize("seconds", [0, -1, MAX_SECONDS + 1, 1.5, True])
def test_a_hold_has_an_end(seconds: int) -> None:
    with pytest.raises(AmountRefused) as refused:
        require_lasting(seconds)
    assert str(refused.value).replace(repr(seconds), "SECONDS", 1) == snapshot(
        "SECONDS s: what is held lasts 1 to 2,592,000 s; nothing was changed"
    )
    require_lasting(1)


@pytest.mark.parametrize("key", ["", "k" * 201, "a\nb", "a\x00b", "a\u202eb", f"{OURS}x"])
def test_a_key_is_short_and_printable_and_not_one_of_ours(key: str) -> None:
    with pytest.raises(AmountRefused) as refused:
        require_key(key)
    assert str(refused.value).replace(repr(key[:200]), "KEY", 1) == snapshot(
        "idempotency key KEY: it has 1 to 200 printable characters and does not begin with 'expire:'; nothing was changed"
    )
    require_key("k" * 200)


@given(PARAMETERS, PARAMETERS)
def test_requests_are_the_same_exactly_when_their_parameters_are(
    entry: dict[str, str | int | None], other: dict[str, str | int | None]
) -> None:
    assert (fingerprint(**entry) == fingerprint(**other)) == (entry == other)
    assert fingerprint(**dict(reversed(entry.items()))) == fingerprint(**entry)
