"""`report`: one page for a month, written to the given file."""

import re
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from tests.cli.conftest import Run
from tests.reading import as_read


@pytest.mark.long
def test_the_command_writes_a_page_of_the_current_month(reelkeeper: Run, tmp_path: Path) -> None:
    said = reelkeeper("report", "-o", tmp_path / "page.html", "--as-of", "2026-11-24T18:00:00Z").stdout
    assert as_read(said, page=tmp_path / "page.html", size=re.compile(r"\d+(?= kB)")) == snapshot(
        "<page>: November 2026, <size> kB. The page is self-contained."
    )
    assert "<title>November 2026" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("--month", "2026-13"),
        ("--month", "2026-12"),
        ("--month", "0001-01"),
        ("--as-of", "0001-01-05"),
        ("--as-of", "9999-12-31"),
    ],
)
def test_an_invalid_month_ends_with_2(reelkeeper: Run, tmp_path: Path, words: tuple[str, str]) -> None:
    reelkeeper("report", "-o", tmp_path / "page.html", "--as-of", "2026-11-24", *words, exit_code=2)
    assert not (tmp_path / "page.html").exists()
