"""The account and bucket for queries to Cloudflare."""

from pathlib import Path

import pytest
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.settings import Settings
from tests.reading import as_read

ACCOUNT = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is set but the bucket and its keys."""
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    for name, value in {"S3_ACCESS_KEY_ID": "a", "S3_SECRET_ACCESS_KEY": "b", "BUCKET": "films"}.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (f"https://{ACCOUNT}.eu.r2.cloudflarestorage.com", "eu_films"),
        (f"https://{ACCOUNT}.fedramp.r2.cloudflarestorage.com", "fedramp_films"),
        (f"https://{ACCOUNT}.r2.cloudflarestorage.com", "films"),
        ("http://127.0.0.1:9000", "films"),
    ],
)
def test_analytics_name_a_bucket_with_its_jurisdiction(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, name: str
) -> None:
    monkeypatch.setenv("REELKEEPER_S3_ENDPOINT_URL", endpoint)
    assert Settings().analytics_bucket == name


@pytest.mark.parametrize("name", ["s3://videos", "https://videos.r2.dev", "our videos", "videos/", "vidéos", ""])
def test_a_bucket_that_cannot_exist_is_refused_before_a_client_is_made(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("REELKEEPER_BUCKET", name)
    with pytest.raises(ValidationError, match="bucket"):
        Settings()


@pytest.mark.parametrize("name", ["videos", "Our_Videos.2", "arn:aws:s3:us-east-1:1:accesspoint/videos"])
def test_a_bucket_may_have_any_name_that_a_client_takes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("REELKEEPER_S3_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("REELKEEPER_BUCKET", name)
    assert Settings().bucket == name


def test_a_prefix_of_a_slash_is_the_whole_bucket_and_an_empty_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_S3_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("REELKEEPER_PREFIX", "/")
    assert not Settings().prefix
    for wrong in ("", "films", "/films/"):
        monkeypatch.setenv("REELKEEPER_PREFIX", wrong)
        with pytest.raises(ValidationError) as refused:
            Settings()
        assert as_read(refused.value.errors()[0]["msg"], given=repr(wrong)) == snapshot(
            "Value error, prefix <given> must end with / and not begin with it; / alone is the whole bucket"
        )


def test_the_account_is_that_of_r2_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_R2_ACCOUNT_ID", ACCOUNT)
    monkeypatch.setenv("REELKEEPER_CLOUDFLARE_API_TOKEN", "a-token")
    assert Settings().account_id == ACCOUNT
    monkeypatch.setenv("REELKEEPER_CLOUDFLARE_ACCOUNT_ID", "another")
    assert Settings().account_id == "another"
    assert Settings().analytics_bucket == "films"


def test_a_token_without_an_account_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_S3_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("REELKEEPER_CLOUDFLARE_API_TOKEN", "a-token")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert as_read(refused.value.errors()[0]["msg"]) == snapshot("""\
Value error, cloudflare_api_token needs r2_account_id or cloudflare_account_id, whose usage it
  reads\
""")


@pytest.mark.parametrize(
    "text",
    [
        "users/{user}/{video}.{ext}, {video}.{ext}",
        "users/{user}/{video}.{ext}\n  {video}.{ext}\n",
        '["users/{user}/{video}.{ext}", "{video}.{ext}"]',
    ],
)
def test_patterns_of_keys_come_between_commas_on_lines_or_as_json(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("REELKEEPER_S3_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert Settings().key_pattern == ("{user}/{video}.{ext}", "{user}/{video}/{any}.{ext}")
    monkeypatch.setenv("REELKEEPER_KEY_PATTERN", text)
    assert Settings().key_pattern == ("users/{user}/{video}.{ext}", "{video}.{ext}")


@pytest.mark.parametrize("text", ["{user}/x.{ext}", "", "[1]", "[", "{video}.{ext},{video}.{ext}"])
def test_malformed_patterns_of_keys_are_refused_at_start(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("REELKEEPER_S3_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("REELKEEPER_KEY_PATTERN", text)
    with pytest.raises(ValidationError, match="key_pattern"):
        Settings()


def test_a_queue_of_events_needs_an_account_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_S3_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("REELKEEPER_EVENT_QUEUE_ID", "a-queue")
    with pytest.raises(ValidationError, match="event_queue_token"):
        Settings()
    monkeypatch.setenv("REELKEEPER_EVENT_QUEUE_TOKEN", "a-token")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert as_read(refused.value.errors()[0]["msg"]) == snapshot(
        "Value error, event_queue_id needs r2_account_id or cloudflare_account_id, whose queue it is"
    )
    monkeypatch.setenv("REELKEEPER_CLOUDFLARE_ACCOUNT_ID", ACCOUNT)
    assert Settings().event_queue_id == "a-queue"


@pytest.mark.parametrize(
    ("name", "wrong", "shown"),
    [
        ("S3_ENDPOINT_URL", f"https://{ACCOUNT}.r2.cloudflarestorage.com/films", "/films"),
        ("S3_ENDPOINT_URL", "https://hooks.example/T0/hush", ""),
        ("S3_ENDPOINT_URL", "https://s3.example?key=hush", ""),
        ("S3_ENDPOINT_URL", "https://s3.example#hush", ""),
        ("R2_ACCOUNT_ID", "...", ""),
        ("R2_ACCOUNT_ID", f"{ACCOUNT}0", ""),
        ("R2_ACCOUNT_ID", "hush", ""),
    ],
)
def test_an_address_of_more_than_a_server_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: str, shown: str
) -> None:
    monkeypatch.setenv(f"REELKEEPER_{name}", wrong)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (error,) = refused.value.errors()
    assert error["loc"] == (name.lower(),)
    assert "hush" not in str(refused.value)
    assert shown in error["msg"]
    assert ("REELKEEPER_BUCKET" in error["msg"]) == (name == "S3_ENDPOINT_URL")


def test_an_endpoint_may_end_with_a_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_S3_ENDPOINT_URL", "http://127.0.0.1:9000/")
    assert Settings().endpoint_url == "http://127.0.0.1:9000/"
