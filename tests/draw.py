"""Draw a third of the long suite's cases by a printed seed, so that it takes minutes; the soak runs all of them.

Two kinds of tests come in many cases that differ in one value: tests that run on SQLite and again on PostgreSQL, and
long tests with parameters (pages in a browser, clips, kills at each step). Some tests take minutes by themselves
(`WHOLE`). What this run leaves out is marked `undrawn`, which `make test-long` deselects. The order of pytest-randomly
and the choice have one seed: `make test-long SEED=...` runs the same tests again, and a node id runs one alone, drawn
or not.
"""

from collections import defaultdict
from collections.abc import Iterable
from random import Random
from typing import Any, Final

import pytest

SHARE: Final = 1 / 3
TWINS, CASES, WHOLE = "twins on PostgreSQL", "cases of long tests", "tests of minutes"
_WHOLE: Final = ("tests/docker/test_stack.py",)  # seven minutes; test_compose.py and test_built.py always run
_DRAWN_ALREADY: Final = "tests/ablation/"  # a sample of its own, with what has changed
_COUNTS: Final = pytest.StashKey[dict[str, list[int]]]()


def kind(item: pytest.Item) -> str | None:
    """Say what a test is drawn as; None for one that always runs."""
    if not item.get_closest_marker("long") or item.get_closest_marker("soak"):
        return None
    if item.nodeid.startswith(_WHOLE):
        return WHOLE
    if not hasattr(item, "callspec") or item.nodeid.startswith(_DRAWN_ALREADY):
        return None
    return TWINS if item.callspec.params.get("engine") == "postgresql" else CASES


def drawn(node_ids: Iterable[str], seed: int, *, at_least_one: bool) -> set[str]:
    """Choose about a third, by the seed and the cases of one function, whatever else is collected."""
    lots = {node_id: Random(f"{seed} {node_id}").random() for node_id in node_ids}
    least = min(lots.values()) if at_least_one else 0.0
    return {node_id for node_id, lot in lots.items() if lot < SHARE or lot == least}


@pytest.hookimpl(tryfirst=True)  # before pytest's own, which chooses by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what this run leaves to the soak."""
    if "undrawn" not in config.getoption("markexpr"):
        return
    seed, counts = config.getoption("randomly_seed"), {of: [0, 0] for of in (TWINS, CASES, WHOLE)}
    families: dict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if of := kind(item):
            families[of, item.nodeid.partition("[")[0]].append(item)
    for (of, _), family in families.items():
        if of == CASES and len(family) == 1:
            continue
        chosen = drawn((item.nodeid for item in family), seed, at_least_one=of == CASES)
        for item in family:
            if item.nodeid not in chosen:
                item.add_marker(pytest.mark.undrawn)
        counts[of] = [counts[of][0] + len(chosen), counts[of][1] + len(family)]
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
