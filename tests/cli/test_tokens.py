"""`tokens`: created and shown once, listed without their text, revoked."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from inline_snapshot import snapshot
from typer.testing import Result

from reelkeeper.model.token_scopes import Scope
from tests.reading import as_read


@pytest.mark.long
def test_a_token_is_shown_once_and_then_only_listed(reelkeeper: Callable[..., Result], ask: Callable[..., Any]) -> None:
    made = ask("tokens", "create", "front", "--scope", "jobs", "--scope", "videos")
    listed = ask("tokens", "list")
    assert [item["id"] for item in listed] == [made["id"]]
    assert made["token"].startswith("rk_")
    assert made["token"] not in reelkeeper("tokens", "list").output
    reelkeeper("tokens", "revoke", made["id"])
    assert ask("tokens", "list")[0]["revoked_at"]


def test_a_scope_that_is_none_is_refused(reelkeeper: Callable[..., Result]) -> None:
    assert as_read(reelkeeper("tokens", "create", "front", "--scope", "money", exit_code=2).output) == snapshot("""\
Usage: root tokens create [OPTIONS] {name}
Try 'root tokens create -h' for help.
Error
Invalid value: no scope money; choose from jobs, videos, views, uploads, deletions, keeps,
takedowns, holds, users, accounts, erase, export, webhooks, metrics, runs\
""")
    offered = set(re.findall(r"[a-z]+", reelkeeper("tokens", "create", "--help").output))
    assert set(Scope) <= offered
    reelkeeper("tokens", "revoke", "none", exit_code=8)


@pytest.mark.long
def test_the_schema_can_be_printed_without_serving(ask: Callable[..., Any], reelkeeper: Callable[..., Result]) -> None:
    printed = reelkeeper("api", "--schema").stdout
    assert '"/v1/jobs"' in printed
    assert ask("tokens", "list") == []
