"""What the long suite draws: a third, the same for the same seed in each process, and each case sometimes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.draw import drawn

ROOT = Path(__file__).parent.parent
CASES = [f"tests/test_some.py::test_it[{number}]" for number in range(300)]
SUITE = """
import pytest

@pytest.mark.long
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
@pytest.mark.parametrize("number", range(15))
def test_of_many_cases(number, engine):
    pass

@pytest.mark.long
@pytest.mark.parametrize("number", [1])
def test_of_one_case(number):
    pass

@pytest.mark.long
def test_without_cases():
    pass
"""


def test_a_third_is_drawn_and_in_the_end_each_case() -> None:
    draws = [drawn(CASES, seed) for seed in range(50)]
    assert {len(chosen) for chosen in draws} == {100}
    assert set.union(*draws) == set(CASES)


def test_a_choice_is_the_same_whatever_the_order() -> None:
    assert drawn(CASES, 7) == drawn(reversed(CASES), 7) != drawn(CASES, 8)


def test_of_two_cases_one_is_drawn() -> None:
    assert {len(drawn(CASES[:2], seed)) for seed in range(20)} == {1}


def run(folder: Path, *words: str) -> str:
    """Run that suite in a folder of its own; return what pytest says at its end."""
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  long: l\n  soak: s\n  undrawn: u\n")
    said = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rp",
            "-p",
            "xdist",
            "-p",
            "pytest_randomly",
            "-p",
            "tests.draw",
            *words,
        ],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def passed(said: str) -> list[str]:
    return sorted(re.findall(r"^PASSED (.+)$", said, re.MULTILINE))


@pytest.mark.long("three more pytests")
def test_every_worker_draws_the_same_and_what_always_runs_runs(tmp_path: Path) -> None:
    chosen = ("-m", "long and not undrawn", "--randomly-seed=11")
    alone, together = run(tmp_path, "-n0", *chosen), run(tmp_path, "-n2", *chosen)
    said = "drawn: 5 of 15 twins on PostgreSQL, 5 of 15 cases of long tests; again: make test-long SEED=11;"
    assert said in alone
    assert said in together
    assert len(passed(alone)) == 5 + 5 + 2
    assert passed(alone) == passed(together)


def test_without_a_word_about_it_nothing_is_left_out(tmp_path: Path) -> None:
    assert len(passed(run(tmp_path, "-n0", "-m", "long"))) == 32
