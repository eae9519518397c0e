"""`audit` and `db`: the record is shown and verified, the store backed up and restored."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper import failpoints
from reelkeeper.adapters.s3.r2 import Bucket
from tests.cli.conftest import Run
from tests.reading import as_read

Ask = Callable[..., Any]


def test_the_record_says_who_did_what_and_verifies(reelkeeper: Run, ask: Ask, one_video: str) -> None:
    (event,) = ask("audit", "--video", one_video)
    assert event["event"]["detail"]["after_bytes"] > 0
    assert ask("audit", "verify")["events"] == 1
    assert "upload" in reelkeeper("audit", "--user", "ann").stdout


def test_a_changed_audit_record_ends_with_5(reelkeeper: Run, one_video: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state" / "store.sqlite3") as store:
        triggers = store.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            store.execute(f"DROP TRIGGER {name}")
        store.execute("UPDATE audit_events SET video_id = 'other' WHERE video_id = ?", [one_video])
    assert as_read(reelkeeper("audit", "verify", exit_code=5).stderr) == snapshot(
        "error: audit event 1 does not match its hash: it, or one before it, was changed"
    )


@pytest.mark.long
def test_a_store_is_copied_and_brought_back_frozen(reelkeeper: Run, ask: Ask, one_video: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite3"
    assert ask("db", "backup", copy)["size_bytes"] == copy.stat().st_size
    reelkeeper("db", "backup", copy, exit_code=1)  # never over an older one
    reelkeeper("db", "restore", copy, exit_code=9)  # nor into a store that holds anything
    for _ in range(2):  # as the pages say, each day, into a folder that the first of them creates
        assert Path(ask("db", "backup", f"{tmp_path}/new/backups/")["backup"]).parent == tmp_path / "new" / "backups"
    store = tmp_path / "state" / "store.sqlite3"
    with store.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(store.stat().st_size - 4096))
    assert as_read(reelkeeper("db", "restore", copy, exit_code=1).stderr, folder=tmp_path) == snapshot("""\
error: the store <folder>/state/store.sqlite3: it is damaged: move it away, then reelkeeper db
  restore BACKUP. SQLite said: database disk image is malformed (SQLITE_CORRUPT)\
""")
    for old in (tmp_path / "state").glob("store.sqlite3*"):
        old.unlink()
    reelkeeper("db", "restore", copy)
    status = ask("db", "status")
    assert (status["videos"], bool(status["frozen"])) == ({"live": 1}, True)
    assert [item["id"] for item in ask("videos")] == [one_video]
    reelkeeper("takedown", one_video, "--reason", "a court", "--yes", exit_code=9)
    assert status["behind"]
    assert "copies" in {finding["part"] for finding in ask("doctor", exit_code=1) if finding["state"] == "fail"}
    assert ask("db", "adopt", "--yes")["graces"] == 0
    status = ask("db", "status")
    assert (status["frozen"], status["behind"]) == (None, None)
    assert ask("db", "adopt") == {}  # nothing is left to adopt
    reelkeeper("takedown", one_video, "--reason", "a court", "--yes")


def test_a_store_that_moved_works_in_its_new_place_and_nowhere_else(
    reelkeeper: Run, ask: Ask, one_video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = f"sqlite:///{tmp_path}/there.sqlite3"
    assert ask("db", "move", "--to", there)["rows"]["videos"] == 1
    assert ask("db", "status")["frozen"]
    reelkeeper("thaw", exit_code=3)
    reelkeeper("takedown", one_video, "--reason", "a court", "--yes", exit_code=9)
    monkeypatch.setenv("REELKEEPER_DATABASE_URL", there)
    assert (ask("db", "status")["frozen"], ask("db", "status")["behind"]) == (None, None)
    reelkeeper("takedown", one_video, "--reason", "a court", "--yes")


def test_an_adoption_that_died_before_the_bucket_knew_it_is_told_by_the_next(
    reelkeeper: Run, ask: Ask, one_video: str, bucket: Bucket, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.sqlite3"
    ask("db", "backup", copy)
    for old in (tmp_path / "state").glob("store.sqlite3*"):
        old.unlink()
    reelkeeper("db", "restore", copy)

    def die(place: str) -> None:
        if place == "adopt.after_commit":
            raise RuntimeError(place)

    failpoints.observe(die)
    try:
        reelkeeper("db", "adopt", "--yes", exit_code=1)
    finally:
        failpoints.observe(None)
    assert (one_video, bucket.epochs()) == ("v1", [])
    assert ask("db", "adopt") == {}
    assert len(bucket.epochs()) == 1


def test_before_the_first_plan_the_list_says_how_to_make_one(reelkeeper: Run, ask: Ask) -> None:
    assert as_read(reelkeeper("plan").stdout) == snapshot(
        "No plan is saved yet. To make one: reelkeeper plan tier_storage"
    )
    assert ask("plan", "--list") == []


@pytest.mark.usefixtures("no_store")
def test_upgrading_twice_does_nothing_the_second_time(ask: Ask) -> None:
    assert ask("db", "upgrade")["applied"]
    assert ask("db", "upgrade")["applied"] == []
