"""The demo as a newcomer runs it, in an empty home, with every refusal and failure in it."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from tests.reading import as_read

COMMAND = Path(sys.executable).with_name("reelkeeper")


def play(folder: Path, home: Path) -> str:
    surroundings = {
        name: value for name, value in os.environ.items() if not name.startswith(("REELKEEPER_", "PREFECT_"))
    }
    surroundings |= {"HOME": str(home), "REELKEEPER_BUCKET": "somebody-elses", "REELKEEPER_R2_ACCOUNT_ID": "real"}
    surroundings |= {"PREFECT_API_URL": "http://127.0.0.1:9/api"}  # nothing of this may be touched
    done = subprocess.run(
        [COMMAND, "demo", "--dir", str(folder)],
        cwd=home,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.long
def test_the_demo_runs_in_an_empty_home_and_a_second_time(tmp_path: Path) -> None:
    folder, home = tmp_path / "demo", tmp_path / "home"
    home.mkdir()
    said = play(folder, home)
    assert list(home.iterdir()) == []

    for fact in (
        "adopted 13",
        "Nothing was changed: every flow makes a dry run",
        "simulate lifecycle --policy stricter.yaml",
        "refused, and nothing was changed: tier_storage selected 1 of 13",
        "exit code 9",
        "av1 in mp4, and only H.264 in",
        "no result at most 90 %",
        "ben-cold is restored, byte for byte",
        "purged",
        "its bytes are deleted",
        "as uploaded: the upload itself is broken, so it was left alone",
        "This month's bill so far:",
        "Critical: Daily budget at",
        "The spend is odd:",
        "in 4 of 5 cases",
        "the month's report as one self-contained page",
        "18 requests of 4 users at once",
        "was lost on purpose.",
        "The vendor received 13 requests for 13 videos, each paid once.",
        "jobs known to both 13, made for 13 requests of ours; only to us 0, only to fal 0.",
        "Ours: $0.13. fal bills $0.13: a difference of $0.00.",
        "size and length are as requested, and all 624 frames decode",
        "13 came from the cache",
        "The limit of provider fal goes from 2 to 4.",
    ):
        assert fact in said, said
    assert re.search(r"[34] videos shrank from .* [67]\d% less", said)
    assert re.search(r"^ana +free +6 +0 +2 ", said, re.MULTILINE), said  # queued, joined, refused
    assert re.search(r"^all +13 +2 ", said, re.MULTILINE), said  # made, joined
    made_by = re.findall(r"^A kite, take \d +(\w+) ", said, re.MULTILINE)
    assert made_by == ["fal", "local", "local"], said
    for refusal in (
        r"^ana +402 +this costs \$\d",
        r"^ana +403 +nothing was reserved",
        r"^dan +403 +nothing was reserved",
    ):
        assert re.search(refusal, said, re.MULTILINE), said
    assert [row for row in said.splitlines() if "  " in row and "/" not in row and len(row) > 140] == []  # of tables
    assert "\x1b" not in said
    with sqlite3.connect(folder / "prefect" / "prefect.db") as records:
        runs = records.execute("SELECT state_name, count(*) FROM flow_run GROUP BY 1").fetchall()
    assert dict(runs) == {"Completed": 12, "Failed": 1}

    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    for picture in ("spend.png", "forecast.png"):
        assert (folder / picture).read_bytes()[:4] == b"\x89PNG"

    again = play(folder, home)
    assert "Done in" in again


@pytest.mark.long
def test_the_demo_empties_only_folders_that_it_made(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run(
        [COMMAND, "demo", "--dir", tmp_path, "--fresh"], capture_output=True, text=True, check=False, timeout=280
    )
    assert (done.returncode, (tmp_path / "thesis.txt").read_text()) == (2, "years of work")
    assert as_read(done.stderr, folder=tmp_path) == snapshot(
        "error: <folder> is not empty and was not made by a demo; give another --dir"
    )
