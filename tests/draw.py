"""Draw a third of the long suite's cases by a printed seed, so that it takes minutes; the soak runs all of them.

Two kinds of tests come in many cases that differ in one value: tests that run on SQLite and again on PostgreSQL, and
long tests with parameters (pages in a browser, clips, kills at each step). Some tests take minutes by themselves
(`WHOLE`). What this run leaves out is marked `undrawn`, which `make test-long` deselects. The order of pytest-randomly
and the choice have one seed: `make test-long SEED=...` runs the same tests again, and a node id runs one alone, drawn
or not.
"""

from collections import defaultdict
from collections.abc import Iterable
from math import ceil
from random import Random
from typing import Any, Final

import pytest

ONE_IN: Final = 3
TWINS, CASES, WHOLE = "twins on PostgreSQL", "cases of long tests", "tests of whole installations"
_WHOLE: Final = (  # files that take one to six minutes of CPU each: the other tests of docker/ and flows/ always run
    "tests/deployments/test_day.py",
    "tests/docker/test_stack.py",
    "tests/e2e/test_full_disk.py",
    "tests/e2e/test_trial.py",
    "tests/e2e/test_triggering.py",
    "tests/e2e/test_up.py",
    "tests/e2e/test_whole.py",
    "tests/flows/test_dask.py",
    "tests/flows/test_many_workers.py",
    "tests/flows/test_migrate.py",
    "tests/flows/test_one_policy.py",
)
_DRAWN_ALREADY: Final = "tests/ablation/"  # a sample of its own, with what has changed
_COUNTS: Final = pytest.StashKey[dict[str, list[int]]]()


def place(item: pytest.Item) -> tuple[str, str, str] | None:
    """Say of what kind a test is, among which others it is drawn, and with which; None for one that always runs."""
    if not item.get_closest_marker("long") or item.get_closest_marker("soak"):
        return None
    file, function = item.nodeid.partition("::")[0], item.nodeid.partition("[")[0]
    if file in _WHOLE:
        return WHOLE, "", file
    if file.startswith(_DRAWN_ALREADY) or not hasattr(item, "callspec"):
        return None
    twin = item.callspec.params.get("engine") == "postgresql"
    return (TWINS, "", item.nodeid) if twin else (CASES, function, item.nodeid)


def drawn(names: Iterable[str], seed: int) -> set[str]:
    """Choose a third of these names, rounded up."""
    by_lot = sorted(names, key=lambda name: Random(f"{seed} {name}").random())
    return set(by_lot[: ceil(len(by_lot) / ONE_IN)])


@pytest.hookimpl(tryfirst=True)  # before pytest's own, which chooses by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what this run leaves to the soak."""
    if "undrawn" not in config.getoption("markexpr"):
        return
    seed, counts = config.getoption("randomly_seed"), {of: [0, 0] for of in (TWINS, CASES, WHOLE)}
    families: dict[tuple[str, str], dict[str, list[pytest.Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        if found := place(item):
            of, family, unit = found
            families[of, family][unit].append(item)
    for (of, _), units in families.items():
        if of == CASES and len(units) == 1:
            continue
        chosen = drawn(units, seed)
        for unit, members in units.items():
            counts[of][0] += len(members) * (unit in chosen)
            counts[of][1] += len(members)
            for item in members if unit not in chosen else ():
                item.add_marker(pytest.mark.undrawn)
    config.stash[_COUNTS] = counts
    if hasattr(config, "workeroutput"):
        config.workeroutput["drawn"] = counts


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401  pytest-xdist ships no types
    """Take over what a worker of pytest-xdist has counted: each counts the same."""
    if counts := getattr(node, "workeroutput", {}).get("drawn"):
        node.config.stash[_COUNTS] = counts


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401  pytest's, not public
    """Say what was drawn, and how to run it again."""
    if counts := config.stash.get(_COUNTS, None):
        seed = config.getoption("randomly_seed")
        said = ", ".join(f"{chosen} of {all_} {of}" for of, (chosen, all_) in counts.items() if all_)
        terminalreporter.write_line(f"drawn: {said}; again: make test-long SEED={seed}; all: make test-soak")
