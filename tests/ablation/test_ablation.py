"""Each guard is switched off in a copy of the tree, and the tests named with it must fail."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from tests.ablation.copies import Copy
from tests.ablation.guards import ROOT, Guard, Witness, faults, guards, with_what_masks_it, witnesses
from tests.ablation.warm import Unlike, switch

SAMPLE, MAX_CHANGED = 5, 10  # guards in make test-long, where each takes 1 to 10 s
EVERY_WITNESS = sorted({test for witness in witnesses().values() for test in witness.noticed_by})
WITNESSES = {path: [*tests] for path, tests in groupby(EVERY_WITNESS, key=lambda test: test.partition("::")[0])}

SEED = (
    os.environ.get("ABLATION_SEED")
    or os.environ.get("SEED")  # of .ci/run and make
    or os.environ.get("PYTEST_XDIST_TESTRUNUID")
    or str(time.time_ns())
)


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    with closing(Copy(tmp_path_factory.mktemp("ablation") / "tree")) as copy:
        yield copy


def changed_files() -> set[str]:
    """Return the files changed by the last commit and the working tree; none if this is not a clone."""
    said = subprocess.run(
        [shutil.which("git") or "git", "diff", "--name-only", "HEAD~1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return set(said.stdout.split())


def sample() -> list[str]:
    """Choose the guards of files that changed, of very many some by chance, and some others."""
    changed, chance = changed_files(), random.Random(SEED)
    near = [name for name, guard in guards().items() if guard.path in changed]
    others = sorted(guards().keys() - set(near))
    return chance.sample(near, min(MAX_CHANGED, len(near))) + chance.sample(others, min(SAMPLE, len(others)))


def expect_notice(copy: Copy, name: str) -> None:
    with copy.switched_off(*with_what_masks_it(name)):
        ran = copy.run(witnesses()[name].noticed_by)
    assert ran.code == 1, f"nothing noticed that {name} was switched off:\n{ran.tail}"
    assert ran.failed, f"its witnesses broke instead of failing:\n{ran.tail}"


def test_every_guard_has_a_witness_and_every_witness_a_guard() -> None:
    assert not list(faults(guards(), witnesses()))


def test_a_guard_without_a_witness_is_found() -> None:
    guard = Guard("purge.new", "something", "reelkeeper/errors.py", 1)
    assert list(faults({guard.name: guard}, {})) == snapshot(
        ["reelkeeper/errors.py:1: purge.new: no test is named that notices its absence"]
    )


def test_a_witness_without_its_guard_clause_or_test_is_found() -> None:
    guard = Guard("purge.new", "something", "reelkeeper/errors.py", 1)
    entry = Witness("purge.new", "no such clause", "", ("tests/test_none.py::test_none",), ("purge.other",))
    assert list(faults({}, {"purge.new": entry})) == snapshot(["purge.new: nothing in the code is marked so"])
    assert list(faults({guard.name: guard}, {"purge.new": entry})) == snapshot(
        [
            "reelkeeper/errors.py:1: purge.new: no 'no such clause' by its marker",
            "purge.new: no test tests/test_none.py::test_none",
            "purge.new: masked by purge.other, which is no guard",
        ]
    )


@pytest.mark.parametrize("name", sample())
def test_a_guard_of_a_changed_file_or_of_a_sample_is_missed(copy: Copy, name: str) -> None:
    sys.stdout.write(f"ABLATION_SEED={SEED}\n")
    expect_notice(copy, name)


@pytest.mark.soak
@pytest.mark.parametrize("name", guards())
def test_each_guard_is_missed(copy: Copy, name: str) -> None:
    expect_notice(copy, name)


@pytest.mark.soak
@pytest.mark.parametrize("path", sorted(WITNESSES))
def test_every_witness_passes_with_all_guards_on(copy: Copy, path: str) -> None:
    ran = copy.run(WITNESSES[path], max_failures=0)
    assert ran.code == 0, "\n".join([*ran.failed, ran.tail])


SOURCE = """
LIMIT = 3


class Purse:
    def spend(self, cents: int) -> int:
        if cents > LIMIT:
            raise ValueError
        return cents

    def give(self) -> int:
        return 0
"""


def test_a_changed_function_is_changed_wherever_it_is_bound(tmp_path: Path) -> None:
    room = loaded(path := str(tmp_path / "purse.py"))
    spend, give = room["Purse"]().spend, room["Purse"].give.__code__
    switch(SOURCE, SOURCE.replace("            raise ValueError", "            pass\n"), path)
    assert spend(4) == 4
    assert room["Purse"].give.__code__ is give


@pytest.mark.parametrize(
    ("clause", "instead"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("    def give", "    @staticmethod\n    def give"),
        ("cents: int)", "cents: int = 4)"),
        ("    def give(self) -> int:\n        return 0", ""),
    ],
)
def test_a_change_of_more_than_functions_needs_a_process_of_its_own(tmp_path: Path, clause: str, instead: str) -> None:
    room = loaded(path := str(tmp_path / "purse.py"))
    with pytest.raises(Unlike):
        switch(SOURCE, SOURCE.replace(clause, instead), path)
    assert room["LIMIT"] == 3


def loaded(path: str) -> dict[str, Any]:
    room: dict[str, Any] = {}
    exec(compile(SOURCE, path, "exec"), room)  # noqa: S102  our own text, as an import runs it
    return room
