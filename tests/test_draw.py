"""What the long suite draws: about a third, the same for the same seed in each process, and each case sometimes."""

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


def test_about_a_third_is_drawn_and_in_the_end_each_case() -> None:
    draws = [drawn(CASES, seed, at_least_one=False) for seed in range(50)]
    assert all(60 < len(chosen) < 140 for chosen in draws)
    assert set.union(*draws) == set(CASES)


def test_a_choice_is_the_same_whatever_the_order_and_the_company() -> None:
    assert drawn(CASES, 7, at_least_one=True) == drawn(reversed(CASES), 7, at_least_one=True)
    assert drawn(CASES[:30], 7, at_least_one=False) == drawn(CASES, 7, at_least_one=False) & set(CASES[:30])


@pytest.mark.parametrize("seed", range(20))
def test_of_two_cases_at_least_one_is_drawn(seed: int) -> None:
    assert drawn(CASES[:2], seed, at_least_one=True)


def run(folder: Path, *words: str) -> str:
    """Run that suite in a folder of its own; return what pytest says at its end."""
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  long: l\n  soak: s\n  undrawn: u\n")
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-p", "pytest_randomly", "-p", "tests.draw", *words],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def test_every_worker_draws_the_same_and_what_always_runs_runs(tmp_path: Path) -> None:
    chosen = ("-m", "long and not undrawn", "--randomly-seed=11")
    alone, together = run(tmp_path, "-n0", *chosen), run(tmp_path, "-n2", *chosen)
    said = r"drawn: (\d+) of 15 twins on PostgreSQL, (\d+) of 15 cases of long tests; again: make test-long SEED=11"
    twins, cases = re.findall(said, alone)[0]
    assert re.findall(said, together) == [(twins, cases)]
    passed = int(twins) + int(cases) + 2
    assert f"{passed} passed" in alone
    assert f"{passed} passed" in together


def test_without_a_word_about_it_nothing_is_left_out(tmp_path: Path) -> None:
    assert "32 passed" in run(tmp_path, "-n0", "-m", "long")
