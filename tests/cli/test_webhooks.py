"""`webhooks`: the life of an endpoint, whose secret is shown only once."""

from collections.abc import Callable
from typing import Any

import pytest
from inline_snapshot import snapshot
from typer.testing import Result

from tests.reading import as_read


@pytest.mark.long
def test_an_endpoints_life(
    reelkeeper: Callable[..., Result], ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELKEEPER_ALLOW_PRIVATE_ADDRESSES", "true")
    made = ask("webhooks", "add", "http://127.0.0.1:9/hook", "--event", "video.changed")
    assert made["secret"].startswith("whsec_")
    rotated = ask("webhooks", "rotate", made["id"])
    assert rotated["secret"] != made["secret"]
    shown = reelkeeper("webhooks", "list").output
    assert "video.changed" in shown
    assert "whsec_" not in shown + reelkeeper("audit").output
    assert ask("webhooks", "replay", made["id"], "--since", "2026-01-01") == {"replayed": 0}
    assert ask("webhooks", "release", made["id"], "--reason", "told by mail") == {"released": 0}
    ask("webhooks", "disable", made["id"])
    assert ask("webhooks", "list")[0]["disabled_at"]
    ask("webhooks", "enable", made["id"])
    (line,) = ask("webhooks", "list")
    assert (line["url"], line["events"], line["disabled_at"]) == ("http://127.0.0.1:9/hook", ["video.changed"], None)
    ask("webhooks", "remove", made["id"])
    assert ask("webhooks", "list") == []


def test_an_event_that_is_none_and_an_address_of_our_own_are_refused(reelkeeper: Callable[..., Result]) -> None:
    said = reelkeeper("webhooks", "add", "https://x", "--event", "video.lost", exit_code=2).output
    assert as_read(said) == snapshot("""\
Usage: root webhooks add [OPTIONS] {url}
Try 'root webhooks add -h' for help.
Error
Invalid value: no event video.lost; choose from job.ended, video.published, video.changed,
video.expiring, video.retired, video.restored, video.purged, budget.crossed, credits.low\
""")
    reelkeeper("webhooks", "add", "https://127.0.0.1/", exit_code=9)
    reelkeeper("webhooks", "rotate", "none", exit_code=8)


def test_a_release_names_its_endpoint_or_all_and_says_why(reelkeeper: Callable[..., Result]) -> None:
    assert as_read(reelkeeper("webhooks", "release", "--reason", "r", exit_code=2).output) == snapshot("""\
Usage: root webhooks release [OPTIONS] [[ID]]
Try 'root webhooks release -h' for help.
Error
Invalid value: give an endpoint, or --all\
""")
    assert as_read(reelkeeper("webhooks", "release", "--all", exit_code=2).output, only="--reason") == snapshot(
        "Invalid value: a release needs --reason"
    )
    assert as_read(reelkeeper("webhooks", "release", "--all", "--reason", "mail").output) == snapshot(
        "Given from now on: 0 notices, whose days begin."
    )
    assert "notice_release" in reelkeeper("audit").output
