"""The demo as a newcomer runs it, in an empty home, with every refusal and failure in it."""

import re
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from inline_snapshot import snapshot

from tests.e2e.installation import PROXY, bare_environment
from tests.reading import as_read

COMMAND = Path(sys.executable).with_name("reelkeeper")


def play(folder: Path, home: Path) -> str:
    surroundings = bare_environment() | PROXY
    surroundings |= {"HOME": str(home), "REELKEEPER_BUCKET": "somebody-elses", "REELKEEPER_R2_ACCOUNT_ID": "1ea1" * 8}
    surroundings |= {"PREFECT_API_URL": "http://127.0.0.1:9/api"}  # nothing of this may be touched
    done = subprocess.run(
        [COMMAND, "demo", "--dir", str(folder)],
        cwd=home,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
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
        r"^sync_catalog .*\b13 .*\b13\b",
        r" --policy stricter\.yaml$",
        r"tier_storage .*\b1 .*\b13\b",
        r"--param limits\.max_objects=1( |$)",
        r"[a-z] 9\. ",  # that command's exit code
        r"^chloe-av1 .*refused",
        r"^chloe-grain .*refused",
        r"^ben-cut .*refused",
        r"^ben-cold .*retired",
        r"^ben-cold [a-z].*\b30 ",  # restored, and held for days
        r"^chloe-city .*purged",
        r"^ana-city +gone ",
        r"^ben-cut +live .*broken",
        r"\b[34] .* [67]\d% ",  # how much smaller the videos are
        r"^total +\d",
        r"^budget, total, ",
        r"^anomaly, total, ",
        r"^20\d\d-\d\d: \$\d",
        r"/report\.html: ",
        r"^18 .*\b4 ",  # requests, users
        r"^ana +free +6 +0 +2 ",  # queued, joined, refused
        r"^ana +402 ",
        r"^ana +403 ",
        r"^dan +403 ",
        r"^all +13 +2 ",  # made, joined
        r"\b13 .* fal 0\.",  # jobs that both know, and one alone
        r"\$0\.13\b.*\$0\.13\b.*\$0\.00\b",  # the bills of both
        r"\b624 ",  # frames that decode
        r"\b13 .*: 13 ",  # from the cache
        r"\b fal .*\b2 .*\b4\.",  # its limit
    ):
        assert re.search(fact, said, re.MULTILINE), (fact, said)
    made_by = re.findall(r"^A kite, take \d +(\w+) ", said, re.MULTILINE)
    assert made_by == ["fal", "local", "local"], said
    of_tables = [row.strip() for row in said.splitlines() if "  " in row.strip() and "/" not in row]
    assert [row for row in of_tables if len(row) > 140] == []
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
def test_a_demo_that_is_killed_leaves_no_process_that_holds_its_output(tmp_path: Path) -> None:
    command = [str(COMMAND), "demo", "--dir", str(tmp_path / "demo")]
    with subprocess.Popen(command, env=bare_environment(), stdout=subprocess.PIPE, text=True, cwd=tmp_path) as demo:
        assert demo.stdout
        family = list[psutil.Process]()
        try:
            assert any("Ready after" in line for line in demo.stdout)
            family = psutil.Process(demo.pid).children(recursive=True)
            demo.kill()
            psutil.wait_procs(family, timeout=60)
            assert [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
            demo.stdout.read()
        finally:
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.kill()


@pytest.mark.long
def test_the_demo_empties_only_folders_that_it_made(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run(
        [COMMAND, "demo", "--dir", tmp_path, "--fresh"], capture_output=True, text=True, check=False, timeout=900
    )
    assert (done.returncode, (tmp_path / "thesis.txt").read_text()) == (2, "years of work")
    assert as_read(done.stderr, folder=tmp_path) == snapshot(
        "error: <folder> is not empty and was not made by a demo; give another --dir"
    )
