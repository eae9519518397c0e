"""`hold`, `freeze`, `thaw`, `restore`: they take effect at once, and are in the audit."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.model.ids import earlier_id
from reelkeeper.operations.core.workspace import note_trial, open_workspace
from reelkeeper.settings import Settings
from tests.buckets import BUCKET
from tests.cli.conftest import Run
from tests.doubles.cloudflare import ACCOUNT, ALL, TOKEN, ZONE, CloudflareDouble
from tests.doubles.r2 import R2Double
from tests.reading import TIME, UUID, as_read
from tests.worlds import AtFailpoint

Ask = Callable[..., Any]
Patch = pytest.MonkeyPatch
RESTORED = "restore.after_commit"  # the failpoint after each batch
CLOCK = re.compile(r"\d\d:\d\d:\d\d")


@pytest.mark.long
def test_a_hold_is_listed_until_it_is_released(reelkeeper: Run, ask: Ask, one_video: str) -> None:
    placed = ask("hold", "--video", one_video, "--reason", "a dispute", "--until", "2100-01-01")
    (line,) = ask("hold", "--list")
    assert (line["id"], line["subject"], line["expires_at"][:10]) == (placed["id"], one_video, "2100-01-01")
    reelkeeper("hold", "--release", placed["id"])
    assert ask("hold", "--list") == []
    assert [item["event"]["event"] for item in ask("audit", "--limit", "2")] == ["release", "hold"]


@pytest.mark.long
def test_a_hold_in_a_trial_is_in_the_store_and_asks_nothing_of_the_bucket(
    reelkeeper: Run, one_video: str, configured: Settings, double: R2Double
) -> None:
    with open_workspace(configured) as opened:
        note_trial(opened.engine, opened.bucket, begins=True)
    double.requests.clear()
    told = reelkeeper("hold", "--video", one_video, "--reason", "a dispute")
    assert (double.requests, told.stderr) == ([], "")
    assert " ".join(told.stdout.partition(". ")[2].split()) == snapshot(
        "It is in the store: a trial writes nothing to the bucket."
    )


@pytest.mark.long
def test_a_video_is_taken_down_and_certified(reelkeeper: Run, ask: Ask, one_video: str) -> None:
    reelkeeper("takedown", one_video, "--yes", exit_code=2)  # without a reason
    placed = ask("hold", "--video", one_video, "--reason", "evidence", "--legal")
    wanted = ("takedown", one_video, "--reason", "court order 17", "--yes")
    told = ask(*wanted, exit_code=6)
    assert [item["why"] for item in told["objects"]] == snapshot(
        ["a legal hold keeps it; it is not served to anyone. Repeat the takedown when the hold has ended"]
    )
    reelkeeper("hold", "--release", placed["id"])
    done = ask(*wanted)
    assert [(item["why"], bool(item["purged_at"])) for item in done["objects"]] == [("", True)]
    assert ask("takedown", one_video, "--certificate") == done
    reelkeeper("restore", "--video", one_video, exit_code=8)
    reelkeeper("takedown", "none", "--reason", "r", "--yes", exit_code=8)


def test_a_video_is_taken_down_by_the_name_of_which_its_id_was_made(ask: Ask, reelkeeper: Run, tiny_clip: Path) -> None:
    made = earlier_id("my clip", "ann")
    reelkeeper("videos", "add", tiny_clip, "--user", "ann", "--video", made)
    done = ask("takedown", "my clip", "--reason", "court order 17", "--yes")
    assert done["video_ids"] == [made]
    assert ask("takedown", "my clip", "--certificate") == done


SIZE = re.compile(r"[\d.]+ kB")


def test_a_takedown_asks_about_all_that_it_would_delete(reelkeeper: Run, one_video: str) -> None:
    wanted = ("takedown", one_video, "--reason", "court order 17")
    assert as_read(reelkeeper(*wanted, exit_code=1).stderr, size=SIZE) == snapshot(
        "Permanently delete the bytes of v1 (1 object, <size>) now? [y/N]:Aborted."
    )  # nobody answers the question
    assert as_read(reelkeeper(*wanted, "--same-bytes", exit_code=1).stderr, size=SIZE) == snapshot("""\
Permanently delete the bytes of v1 (1 object, <size>), and those of every other video with the
  same bytes now? [y/N]:Aborted.\
""")
    assert as_read(reelkeeper(*wanted, "--max-videos", 1, "--yes", exit_code=2).stderr) == snapshot("""\
Usage: root takedown [OPTIONS] {ID}
Try 'root takedown -h' for help.
Error
Invalid value: --max-videos needs --same-bytes\
""")
    reelkeeper("takedown", "none", "--reason", "r", exit_code=8)  # before it asks


def test_a_takedown_whose_others_are_too_many_certifies_the_video_itself(
    reelkeeper: Run, ask: Ask, one_video: str, tiny_clip: Path
) -> None:
    reelkeeper("videos", "add", tiny_clip, "--user", "ben", "--video", "v2")
    wanted = ("takedown", one_video, "--reason", "court order 17", "--yes", "--same-bytes")
    done = ask(*wanted, "--max-videos", 0, exit_code=6)
    assert [(item["video_id"], bool(item["purged_at"])) for item in done["objects"]] == [(one_video, True)]
    assert {item["id"]: item["state"] for item in ask("videos")} == {one_video: "gone", "v2": "live"}
    assert ask(*wanted)["video_ids"] == [one_video, "v2"]


def test_a_takedown_is_not_done_while_the_cdn_was_not_told(
    ask: Ask, one_video: str, cloudflare: CloudflareDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = {"PUBLIC_URL": "https://videos.example.com", "CACHE_ZONE_ID": ZONE, "CACHE_PURGE_TOKEN": TOKEN}
    for name, value in {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_URL": cloudflare.url, **public}.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)
    cloudflare.permissions = ALL - {"Cache Purge: Purge"}
    wanted = ("takedown", one_video, "--reason", "court order 17", "--yes")
    assert [bool(item["purged_at"]) for item in ask(*wanted, exit_code=6)["objects"]] == [True]
    cloudflare.permissions = ALL
    (deleted,) = ask(*wanted)["objects"]
    assert cloudflare.forgotten == [[f"https://videos.example.com/{deleted['key']}"]]


@pytest.fixture
def on_trial(configured: Settings, one_video: str) -> str:
    """Ann's video, in a bucket that is only read from now on; return its id."""
    with open_workspace(configured) as opened:
        note_trial(opened.engine, opened.bucket, begins=True)
    return one_video


def stored(double: R2Double, prefix: str) -> dict[str, str]:
    found = double.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    return {item["Key"].removeprefix(prefix): item["ETag"] for item in found}


@pytest.mark.parametrize("words", [(), ("--yes",), ("--with-files", "--yes")])
def test_an_erasure_in_a_trial_says_what_it_would_delete_and_is_refused(
    reelkeeper: Run, ask: Ask, on_trial: str, double: R2Double, prefix: str, words: tuple[str, ...]
) -> None:
    double.client.put_object(Bucket=BUCKET, Key=f"{prefix}ann/{on_trial}.jpg", Body=b"12345")
    before = stored(double, prefix)
    foretold = ask("users", "erase", "ann", *words, exit_code=9)
    size = double.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}ann/{on_trial}/")["Contents"][0]["Size"]
    assert (foretold["videos"], foretold["objects"], foretold["size_bytes"]) == (1, 1, size)
    assert foretold["files"] == [
        {"key": f"{prefix}ann/{on_trial}.jpg", "size_bytes": 5, "by": "pattern", "upload_id": ""}
    ]
    told = reelkeeper("users", "erase", "ann", *words, exit_code=9)
    assert f"{prefix}ann/{on_trial}.jpg" in told.stdout
    assert {int(count) for count in re.findall(r"(\d+)\s(?:video|object|file)", told.stdout)} == {1}
    assert "[y/N]" not in told.output
    reelkeeper("users", "erase", "nobody", *words, exit_code=8)
    assert ask("users", "erasing") == []
    assert stored(double, prefix) == before


def test_a_takedown_in_a_trial_says_what_it_would_delete_and_is_refused(
    reelkeeper: Run, ask: Ask, on_trial: str, double: R2Double, prefix: str
) -> None:
    before, wanted = stored(double, prefix), ("takedown", on_trial, "--reason", "court order 17")
    foretold = ask(*wanted, exit_code=9)
    assert (foretold["video_id"], foretold["objects"]) == (on_trial, 1)
    assert as_read(reelkeeper(*wanted, "--yes", exit_code=9).stdout, size=SIZE) == snapshot(
        "Once live, this would permanently delete the bytes of v1 (1 object, <size>)."
    )
    reelkeeper("takedown", "none", "--reason", "r", "--yes", exit_code=8)
    reelkeeper("takedown", on_trial, "--certificate", exit_code=8)
    assert stored(double, prefix) == before


@pytest.mark.long
def test_a_user_gets_a_copy_of_all_data(reelkeeper: Run, ask: Ask, one_video: str, tmp_path: Path) -> None:
    assert one_video
    done = ask("users", "export", "ann", "--to", tmp_path / "ann.zip")
    assert (done["videos"], done["rows"]["videos"], done["missing"]) == (1, 1, [])
    reelkeeper("users", "export", "ann", "--to", tmp_path / "ann.zip", exit_code=2)
    reelkeeper("users", "export", "nobody", "--to", tmp_path / "nobody.zip", exit_code=8)


def test_a_hold_on_an_unknown_user_ends_with_8(reelkeeper: Run) -> None:
    reelkeeper("hold", "--user", "nobody", "--reason", "r", exit_code=8)
    reelkeeper("hold", "--release", "abc", exit_code=8)


@pytest.mark.long
def test_frozen_changes_end_with_3_until_thawed(reelkeeper: Run, one_video: str, tiny_clip: Path) -> None:
    reelkeeper("freeze", "--reason", "something is odd")
    add = ("videos", "add", tiny_clip, "--user", "ann", "--video", one_video)
    assert as_read(reelkeeper(*add, exit_code=3).stderr, at=TIME, person=getuser()) == snapshot("""\
error: frozen since <at> by <person>: something is odd. When the cause is resolved: reelkeeper
  thaw\
""")
    assert as_read(reelkeeper("db", "status").stdout, only="something is odd", at=TIME, person=getuser()) == snapshot(
        """\
Changes frozen since <at> by <person>: something is odd. When the cause is resolved: reelkeeper
  thaw\
"""
    )
    assert as_read(reelkeeper("thaw").stdout, at=TIME) == snapshot(
        "Changes are allowed again. They were frozen because: something is odd"
    )
    assert as_read(reelkeeper("thaw").stdout) == snapshot("Nothing was frozen.")
    reelkeeper(*add)


@pytest.mark.parametrize("until", ["0001-01-01T00:00+05:00", "9999-12-31T23:59-05:00"])
def test_a_time_that_is_in_no_calendar_of_utc_is_a_wrong_argument(reelkeeper: Run, one_video: str, until: str) -> None:
    reelkeeper("hold", "--video", one_video, "--reason", "a case", "--until", until, exit_code=2)
    assert json.loads(reelkeeper("hold", "--list", "--json").stdout) == []


def test_a_restore_of_a_mistyped_id_does_not_say_that_bytes_are_purged(reelkeeper: Run, one_video: str) -> None:
    assert one_video == "v1"
    assert as_read(reelkeeper("restore", "--video", "V1", exit_code=8).stderr) == snapshot(
        "error: no video 'V1' in the catalogue"
    )
    assert as_read(reelkeeper("restore", "--user", "anne", exit_code=8).stderr) == snapshot(
        "error: no user 'anne' in the catalogue"
    )


def test_a_replaced_video_is_not_restored_by_mistake(reelkeeper: Run, one_video: str) -> None:
    assert as_read(reelkeeper("restore", "--video", one_video, exit_code=8).stderr) == snapshot(
        "error: nothing to restore for video v1: no video is retired, or its bytes are already purged"
    )


def test_a_restore_names_what_a_purge_has_claimed(
    reelkeeper: Run, ask: Ask, one_video: str, tmp_path: Path, tiny_clip: Path
) -> None:
    reelkeeper("videos", "add", tiny_clip, "--user", "ann", "--video", "v2")
    with sqlite3.connect(tmp_path / "state" / "store.sqlite3") as store:
        store.execute("UPDATE videos SET state = 'retired'")
        store.execute("UPDATE blobs SET state = 'retired', purge_after = '2026-01-01 00:00:00.000000'")
        now = datetime.now(UTC).replace(tzinfo=None).isoformat(" ")
        store.execute("UPDATE blobs SET state = 'deleting', claimed_at = ? WHERE video_id = ?", (now, one_video))
    told = reelkeeper("restore", "--user", "ann", "--dry-run")
    foretold = ask("restore", "--user", "ann", "--dry-run")
    assert [blob["video_id"] for blob in foretold["restorable"]] == ["v2"]
    (claimed,) = foretold["claimed"]
    assert (claimed["video_id"], claimed["action"]) == (one_video, "skipped")
    assert claimed["reason"] in " ".join(told.stdout.split())
    assert as_read(told.stdout.partition("claimed ")[2], at=CLOCK) == snapshot("""\
why
v1 a purge has claimed its bytes; if they are still stored, they can be restored after
<at> UTC
1 would be restored, 1 not yet; nothing was changed.\
""")
    told = reelkeeper("restore", "--user", "ann", exit_code=6)
    assert as_read(told.stdout, at=CLOCK, person=getuser(), size=re.compile(r"[\d.]+ kB")) == snapshot("""\
video became bytes why
v2 restored <size> by <person>
v1 skipped - a purge has claimed its bytes; if they are still stored, they can be
restored after <at> UTC
1 of 2 are restored, held for 30 days.\
""")


@pytest.fixture
def three_retired(reelkeeper: Run, one_video: str, tmp_path: Path, tiny_clip: Path, monkeypatch: Patch) -> None:
    """Three retired videos of ann's, restored one by one."""
    assert one_video == "v1"
    for name in ("v2", "v3"):
        reelkeeper("videos", "add", tiny_clip, "--user", "ann", "--video", name)
    with sqlite3.connect(tmp_path / "state" / "store.sqlite3") as store:
        store.execute("UPDATE videos SET state = 'retired'")
        store.execute("UPDATE blobs SET state = 'retired', purge_after = '2026-01-01 00:00:00.000000'")
    monkeypatch.setattr("reelkeeper.operations.lifecycle.restore._BATCH", 1)


@pytest.mark.usefixtures("three_retired")
def test_a_restore_that_ends_half_way_tells_what_it_restored_and_what_it_did_not_try(
    reelkeeper: Run, ask: Ask, double: R2Double, at_failpoint: AtFailpoint
) -> None:
    at_failpoint(RESTORED, lambda: double.faults.fail("ListObjectsV2", 403))
    told = ask("restore", "--user", "ann", exit_code=1)
    became = {outcome["video_id"]: outcome["action"] for outcome in told["outcomes"]}
    assert became == {"v1": "restored", "v2": "failed", "v3": "not_tried"}
    at_failpoint(RESTORED, lambda: double.faults.fail("ListObjectsV2", 403))
    told = reelkeeper("restore", "--user", "ann", exit_code=1)
    assert as_read(told.stdout, person=getuser(), size=SIZE) == snapshot("""\
video became bytes why
v2 restored <size> by <person>
v3 failed - the restore ended at it, or at one of its batch: to see what it is now,
reelkeeper videos why
1 of 2 are restored, held for 30 days.\
""")
    assert "AccessDenied" in told.stderr
    assert {video["id"]: video["state"] for video in ask("videos")} == {"v1": "live", "v2": "live", "v3": "retired"}


@pytest.mark.usefixtures("three_retired")
def test_a_restore_that_is_refused_half_way_does_not_say_that_nothing_was_changed(
    ask: Ask, double: R2Double, prefix: str, at_failpoint: AtFailpoint
) -> None:
    foreign = f"{prefix}.epochs/{10**6:012}-{'0' * 16}"
    at_failpoint(RESTORED, lambda: double.client.put_object(Bucket=BUCKET, Key=foreign, Body=b"{}"))
    told = ask("restore", "--user", "ann", exit_code=6)
    assert [outcome["action"] for outcome in told["outcomes"]] == ["restored", "failed", "not_tried"]
    told = ask("restore", "--user", "ann", exit_code=9)
    assert [outcome["action"] for outcome in told["outcomes"]] == ["failed", "not_tried"]


@pytest.mark.long("starts the command")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("three_retired")
def test_a_restore_that_is_told_to_end_tells_what_it_restored(number: signal.Signals) -> None:
    script = (
        "from reelkeeper.operations.lifecycle import restore; restore._BATCH = 1; from reelkeeper.cli import app; app()"
    )
    words = [sys.executable, "-c", script, "restore", "--user", "ann", "--json"]
    stops = os.environ | {"REELKEEPER_FAILPOINTS": "restore.after_commit=stop@2"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=stops) as process:
        os.waitpid(process.pid, os.WUNTRACED)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        told, _ = process.communicate(timeout=280)
    assert process.returncode == 130
    assert [outcome["action"] for outcome in json.loads(told)["outcomes"]] == ["restored", "failed", "not_tried"]


@pytest.mark.long
def test_a_foreign_bucket_ends_with_9(
    reelkeeper: Run, one_video: str, tmp_path: Path, tiny_clip: Path, prefix: str
) -> None:
    (tmp_path / "state" / "store.sqlite3").rename(tmp_path / "elsewhere.sqlite3")
    words = ("videos", "add", tiny_clip, "--user", "ann", "--video", one_video)
    assert as_read(reelkeeper(*words, exit_code=9).stderr, deployment=UUID, prefix=prefix) == snapshot("""\
error: bucket 'reelkeeper' under '<prefix>' belongs to deployment <deployment>, but this store
  to <deployment>. Nothing was changed. Check REELKEEPER_BUCKET, _PREFIX, _DATABASE_URL and
  _STATE_DIR\
""")


def test_an_erasure_names_an_unknown_user_before_it_asks(reelkeeper: Run, one_video: str) -> None:
    assert one_video
    assert "[y/N]" not in reelkeeper("users", "erase", "nobody", exit_code=8).stderr


def test_an_erasure_says_before_what_goes_and_after_which_files_stay(
    reelkeeper: Run, ask: Ask, one_video: str, double: R2Double, prefix: str
) -> None:
    assert one_video
    deletes = r"--with-files\s+deletes\s+(\w+)"
    for name, named in (("v1.jpg", "it"), ("a/b/c/deep.jpg", "1"), ("other.jpg", "2")):  # no pattern reads the second
        double.client.put_object(Bucket=BUCKET, Key=f"{prefix}ann/{name}", Body=b"12345")
        said = reelkeeper("users", "erase", "ann", exit_code=1).stderr  # nobody answers
        assert re.findall(deletes, said) == [named]
    assert [int(count) for count in re.findall(r"(\d+)\s(?:video|object|file)", said)] == [3, 1, 1]
    done = ask("users", "erase", "ann", "--yes")
    assert {item["key"].removeprefix(prefix) for item in done["files"]} == {
        "ann/v1.jpg",
        "ann/other.jpg",
        "ann/a/b/c/deep.jpg",
    }
    assert ({item["size_bytes"] for item in done["files"]}, done["files_deleted"]) == ({5}, 0)


@pytest.mark.long
def test_a_user_is_erased(reelkeeper: Run, ask: Ask, one_video: str) -> None:
    placed = ask("hold", "--video", one_video, "--reason", "evidence", "--legal")
    told = ask("users", "erase", "ann", "--yes", exit_code=6)
    assert [item["why"] for item in told["left"]] == snapshot(["a legal hold keeps it"])
    assert ask("users", "erasing") == ["ann"]
    reelkeeper("hold", "--release", placed["id"])
    done = ask("users", "erase", "ann", "--yes")
    assert ask("users", "erasing") == []
    assert (done["left"], done["rows"]["videos"]) == ([], 1)
    assert ask("audit", "--user", "ann") == []
    assert ask("audit", "--user", done["pseudonym"], "--limit", "1")[0]["event"]["event"] == "erase"
    reelkeeper("audit", "verify")
    reelkeeper("users", "erase", "ann", "--yes", exit_code=8)
