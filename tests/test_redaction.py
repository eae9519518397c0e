"""No log record contains a secret, and settings refuse values that would put one into an error."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from pydantic import ValidationError
from uvicorn.logging import AccessFormatter

from reelkeeper import redaction
from reelkeeper.settings import Settings
from tests.reading import as_read

TOKEN = "cfat_0a1b2c3d4e5f"  # noqa: S105  a test's
HOOK = "https://hooks.example/services/T0/B0/k3Jq9wLrX2"
SPACED = "Zoe K"
STORE = "postgresql+psycopg://ann:p%40ss-word@db.example/store"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three secrets are hidden, and what other tests hid is not looked for."""
    monkeypatch.setattr(redaction, "_known", frozenset())
    monkeypatch.setattr(redaction, "_pattern", redaction._pattern)
    redaction.hide([TOKEN, HOOK, STORE])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Bearer {TOKEN}.", "Bearer ***."),
        (f"POST {HOOK} 200", "POST *** 200"),
        ("POST /services/T0/B0/k3Jq9wLrX2 200", "POST *** 200"),
        (f"connecting to {STORE}", "connecting to ***"),
        ("ann, p@ss-word, db", "ann, ***, db"),
        (f"SignedHeaders=host, Signature={'0a' * 32}", "SignedHeaders=host, Signature=***"),
        ("db.example, hooks.example", "db.example, hooks.example"),
    ],
    ids=["token", "address", "its path", "store", "its password", "signature", "no secret"],
)
def test_a_secret_is_not_shown_in_any_of_its_forms(text: str, shown: str) -> None:
    assert redaction.redacted(text) == shown


@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_secret_is_redacted_anywhere_in_a_text(before: str, after: str) -> None:
    assert TOKEN not in redaction.redacted(before + TOKEN + after)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no user 'ann'", "no user '***'"),
        ("budget user:ann exceeded", "budget user:*** exceeded"),
        ("of user/ann, held/ann", "of user/***, held/***"),
        ("videos/ann/v1/g1-0011223344556677.mp4 is lost", "***/g1-0011223344556677.mp4 is lost"),
        ("'ann/a holiday.mp4', 'ann/b.mp4'", "'***/a holiday.mp4', '***/b.mp4'"),
        (f"u/{SPACED}/2026/05/a.mp4,b.mp4", "***/a.mp4,b.mp4"),
        (f"'{SPACED}/a.mp4' u/{SPACED}/b.mp4", "'***/a.mp4' ***/b.mp4"),
        ("GET /v1/users/ann/videos?user_id=ann&x=1", "GET /v1/users/***/videos?user_id=***&x=1"),
        ('no user "o\'brien"', 'no user "***"'),
        ("user 'o\\'brien \"x\"'", "user '***'"),
        ("user:gina+a@example.com, user/a/b|c exceeded", "user:***, user/*** exceeded"),
        ("GET /v1/users/a%252Fb%2520c~d/videos?user_id=a%2Fb&x=1", "GET /v1/users/***/videos?user_id=***&x=1"),
        ("videos/gina=40example.com/a=20b/g1-0011223344556677.mp4 is lost", "***/g1-0011223344556677.mp4 is lost"),
        ("users: 20 %", "users: 20 %"),
        ("see /var/lib/scratch/a.mp4", "see /var/lib/scratch/a.mp4"),
    ],
)
def test_no_user_is_named_where_no_erasure_reaches(text: str, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    assert redaction.unnamed(text) == shown
    logging.getLogger("some.library").warning("%s", text)
    assert shown in caplog.text


def test_a_line_about_a_request_names_no_user_and_is_still_formatted() -> None:
    named = ("127.0.0.1:5000", "GET", "/v1/users/ann/export", "1.1", 200)
    record = logging.getLogRecordFactory()("uvicorn.access", 20, "f", 1, '%s - "%s %s HTTP/%s" %d', named, None)
    text = AccessFormatter("%(client_addr)s %(request_line)s %(status_code)s", use_colors=False).format(record)
    assert text.split() == ["127.0.0.1:5000", "GET", "/v1/users/***/export", "HTTP/1.1", "200", "OK"]


def test_records_are_clean_in_message_arguments_and_trace(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("some.library")
    log.warning("sent %s to %s", TOKEN, {"url": HOOK})
    try:
        int(TOKEN)
    except ValueError:
        log.exception("failed")
    log.warning("100 %")
    assert "sent *** to" in caplog.text
    assert as_read(caplog.text, only="ValueError:") == snapshot(
        "ValueError: invalid literal for int() with base 10: '***'"
    )
    assert TOKEN not in caplog.text
    assert HOOK not in caplog.text


def test_values_too_short_for_a_secret_are_left_alone() -> None:
    redaction.hide(["ann"])
    assert redaction.redacted("ann planned") == "ann planned"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cloudflare_api_token", "tok\u00e9n"),
        ("slack_bot_token", "xoxb-1\nHost: elsewhere"),
        ("s3_endpoint_url", "http://ann:canary@s3.example"),
        ("slack_api_url", "http://ann:canary@slack.example"),
        ("workers", "canary"),
    ],
)
def test_a_setting_that_is_refused_does_not_show_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"REELKEEPER_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name) as refused:
        Settings()
    assert value not in str(refused.value)
    assert "canary" not in str(refused.value)


def test_a_line_end_after_a_secret_is_not_part_of_it_and_an_empty_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_SECOND_SINK_URL", f"{HOOK}\n")
    monkeypatch.setenv("REELKEEPER_WATCHDOG_PING_URL", "")
    read = Settings()
    assert read.second_sink_url
    assert read.second_sink_url.get_secret_value() == HOOK
    assert read.watchdog_ping_url is None
    assert HOOK not in repr(read)
