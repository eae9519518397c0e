"""A webhook is accepted if it is signed with the secret and recent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.adapters.providers.webhook import sign, verify
from reelkeeper.errors import SignatureRefused

SECRET, BODY, NOW = "a secret that both know", b'{"id": "p1", "status": "succeeded"}', 1_764_072_000
LONG = BODY + b" " * 65_536


def test_a_signed_call_names_its_job() -> None:
    assert verify(SECRET, BODY, sign(SECRET, BODY, NOW), NOW + 299) == "p1"


def test_while_a_secret_is_changed_one_of_two_signatures_is_enough() -> None:
    both = sign("the next secret", BODY, NOW) + "," + sign(SECRET, BODY, NOW).partition(",")[2]
    assert verify(SECRET, BODY, both, NOW) == verify("the next secret", BODY, both, NOW) == "p1"


@pytest.mark.parametrize(
    ("header", "body", "now"),
    [
        (sign("another secret", BODY, NOW), BODY, NOW),
        (sign(SECRET, BODY, NOW), BODY.replace(b"p1", b"p2"), NOW),
        (sign(SECRET, BODY, NOW), BODY, NOW + 301),
        (sign(SECRET, BODY, NOW), BODY, NOW - 301),
        (sign(SECRET, BODY, NOW).replace(str(NOW), str(NOW + 1)), BODY, NOW),
        (sign(SECRET, BODY, NOW).replace("v1=", "v0="), BODY, NOW),
        (sign(SECRET, BODY, NOW) + f",t={NOW}", BODY, NOW),
        (sign(SECRET, b"[]", NOW), b"[]", NOW),
        (sign(SECRET, b"{", NOW), b"{", NOW),
        (sign(SECRET, b'{"id": 7}', NOW), b'{"id": 7}', NOW),
        *((sign(SECRET, body, NOW), body, NOW) for body in (b'{"id": "\\ud800"}', b'{"id": "a\\u0000"}', b"[" * 9_999)),
        (sign(SECRET, LONG, NOW), LONG, NOW),
        (f"t={NOW},v1=", BODY, NOW),
        (f"t={NOW},v1=é", BODY, NOW),
        ("t=,v1=00", BODY, NOW),
        ("", BODY, NOW),
    ],
)
def test_any_other_call_is_refused(header: str, body: bytes, now: int) -> None:
    with pytest.raises(SignatureRefused):
        verify(SECRET, body, header, now)


@given(st.text(), st.binary())
def test_no_header_or_body_does_more_than_be_refused(header: str, body: bytes) -> None:
    with pytest.raises(SignatureRefused):
        verify(SECRET, body, header, NOW)
