"""`make snapshots`: a change of words is no failure, and nothing but a change of words is renewed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from tests.reading import TIME, as_read
from tests.snapshots import holders

WORDS = """import pytest
from inline_snapshot import snapshot

def test_words():
    assert "seven videos are kept" == snapshot("six videos are kept")

@pytest.mark.long
def test_long():
    assert "one" == snapshot("two")

def test_of_facts():
    assert 7 == 6
"""


def renew(folder: Path, text: str) -> tuple[int, str]:
    (folder / "test_words.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  long\n  soak\n")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "tests.snapshots", "test_words.py"]
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True, timeout=280)
    assert "seven" in done.stdout  # what changes is shown
    return done.returncode, (folder / "test_words.py").read_text().replace("'", '"')  # as ruff writes it, in a project


@pytest.mark.long
def test_it_ends_well_where_all_it_did_was_renewing(tmp_path: Path) -> None:
    assert renew(tmp_path, WORDS) == (0, WORDS.replace("six", "seven"))


@pytest.mark.long
def test_a_test_that_fails_for_another_reason_still_fails(tmp_path: Path) -> None:
    broken = WORDS.replace('six videos are kept")', 'six videos are kept")\n    assert 1 == 2')
    assert renew(tmp_path, broken) == (1, broken.replace("six", "seven"))


def test_tests_with_a_snapshot_are_found_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "test_words.py"
    path.write_text(WORDS)
    assert list(holders(path)) == [f"{path}::test_words", f"{path}::test_long"]
    path.write_text(WORDS + "\nSHARED = snapshot()\n")
    assert list(holders(path)) == [str(path)]


def test_what_differs_by_run_and_by_terminal_is_no_part_of_what_is_said(tmp_path: Path) -> None:
    wide = f"│ kept in   {tmp_path}/a │\n\nat http://127.0.0.1:{8000} since 2026-11-29 01:02:03 UTC"
    assert as_read(wide, folder=tmp_path, at=TIME) == snapshot("""\
kept in <folder>/a
at http://127.0.0.1:<port> since <at> UTC\
""")
    assert as_read("word " * 20).splitlines() == ["word " * 18 + "word", "  word"]
