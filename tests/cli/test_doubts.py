"""`doubts`: what is not as recorded is listed, and settled once a person has said so."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.cli.opening import workspace
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.videos.doubts import look_into
from tests.buckets import BUCKET
from tests.cli.conftest import Run
from tests.doubles.r2 import R2Double
from tests.marks import marked


@pytest.fixture
def in_doubt(ask: Callable[..., Any], one_video: str, double: R2Double) -> str:
    """A video whose object is not as recorded, in a deployment that a purge has frozen for it; return the key."""
    key = str(ask("videos", "show", one_video)["objects"][0]["key"])
    double.limits_overwrites = False
    double.client.put_object(Bucket=BUCKET, Key=key, Body=b"something else")
    with workspace() as opened:
        look_into(opened, {key: opened.bucket.head(key)}, run_id="sync")
        freeze(opened.engine, by="purge", reason="1 blobs in doubt")
    return key


def test_a_doubt_is_listed_and_settled_after_a_question(
    reelkeeper: Run, ask: Callable[..., Any], in_doubt: str
) -> None:
    (doubt,) = ask("doubts")
    assert (doubt["key"], doubt["state"], doubt["found_bytes"]) == (in_doubt, "live", len(b"something else"))
    assert doubt["expected_bytes"] > doubt["found_bytes"]
    assert doubt["since"] == doubt["seen_at"]
    assert in_doubt in reelkeeper("doubts").stdout.replace("\n", "")
    assert ask("status")["doubts"] == 1
    reelkeeper("doubts", "settle", doubt["id"], "--as", "stored", exit_code=1)  # nobody answers the question
    reelkeeper("doubts", "settle", doubt["id"], "--yes", exit_code=2)  # as what?
    assert ask("doubts") == [doubt]
    done = ask("doubts", "settle", doubt["id"], "--as", "lost", "--yes")
    assert (done["left"], done["settled_as"]) == (0, "lost")
    assert marked(done["frozen"]) == snapshot(
        "frozen since DAY TIME by purge: 1 blobs in doubt. When the cause is resolved: reelkeeper thaw"
    )
    assert ask("doubts") == []
    assert [item["event"]["event"] for item in ask("audit", "--limit", "2")] == ["lose", "doubt_ended"]
    reelkeeper("doubts", "settle", doubt["id"], "--as", "lost", "--yes", exit_code=8)


def test_a_frozen_deployment_names_the_commands_that_end_its_freeze(
    reelkeeper: Run, in_doubt: str, ask: Callable[..., Any]
) -> None:
    said = reelkeeper("status").stdout
    assert {"doubts", "thaw"} <= {*re.findall(r"reelkeeper (\w+)", said)}
    found = {item["part"]: item for item in ask("doctor")}["doubts"]
    assert (found["state"], in_doubt in found["found"]) == ("warn", True)
