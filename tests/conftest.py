"""Fixtures of the whole suite."""

import gc
import os
from collections.abc import Generator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

os.environ["COLUMNS"] = "100"  # as wide as where there is no terminal: pytest-xdist says 80

pytest_plugins = [
    "tests.draw",
    "tests.made_once",
    "tests.browser",
    "tests.databases",
    "tests.buckets",
    "tests.clips",
    "tests.cloudflare",
    "tests.worlds",
    "tests.vendors",
]

# How long one example takes says nothing on a busy machine. Other examples come each time: more in test-long, most in
# the soak.
UNHURRIED: Final[Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=25, **UNHURRIED)
settings.register_profile("thorough", max_examples=100, **UNHURRIED)
settings.register_profile("exhaustive", max_examples=500, **UNHURRIED)
settings.load_profile("quick")


class _Together(LoadFileScheduling):  # type: ignore[misc]  # its package ships no types
    """A file of tests stays in one process, and so do all the flows: a Prefect server takes 12 s of CPU to start."""

    def _split_scope(self, nodeid: str) -> str:
        return "flows" if nodeid.startswith("tests/flows/") else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Make `--dist loadfile`, as in `make test`, keep tests that share fixtures together."""
    return _Together(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for garbage less often, and neither during collection nor among what that loads: a tenth of all CPU."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000)
        gc.enable()


# Where rows are locked and money is counted, the quick tests run on PostgreSQL too; what stands on it, in test-long.
QUICK_ON_POSTGRESQL: Final = ("tests/store/", "tests/operations/billing/", "tests/operations/jobs/")


LONGEST: Final = "tests/docker/test_stack.py"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Mark soak tests as long, and give both more time than the timeout of pyproject.toml. The longest comes first.

    The marks are made before tests are chosen by them; the order after it was drawn at random.
    """
    for item in items:
        store = item.callspec.params.get("engine") if hasattr(item, "callspec") else None
        if item.get_closest_marker("soak") or (
            store == "postgresql" and not item.nodeid.startswith(QUICK_ON_POSTGRESQL)
        ):
            item.add_marker(pytest.mark.long)
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(7_200 if item.get_closest_marker("soak") else 1_200))
    yield
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))  # at the end, all would wait for its seven minutes
