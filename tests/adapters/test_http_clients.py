"""How long a server that says Retry-After is waited for."""

import pytest

from reelkeeper.adapters.http_clients import retry_after_seconds

SIX_HOURS = 21_600.0


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("30", 30.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("21600", SIX_HOURS),
        ("86400", SIX_HOURS),  # a mistake there would stop us for good
        ("nan", 7.0),
        ("soon", 7.0),
        ("Sun, 29 Nov 2026 10:00:05 GMT", 5.0),
    ],
)
def test_it_is_waited_for_as_long_as_it_says_up_to_six_hours(said: str, seconds: float) -> None:
    headers = {"Retry-After": said, "Date": "Sun, 29 Nov 2026 10:00:00 GMT"}
    assert retry_after_seconds(headers, 7.0) == seconds
