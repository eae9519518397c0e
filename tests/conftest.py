"""Fixtures of the whole suite, by what they stand on."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads for small matrices only wait for each other: twice the CPU
os.environ["COLUMNS"] = "100"  # as wide as where there is no terminal: pytest-xdist says 80

pytest_plugins = [
    "tests.compiled",
    "tests.browser",
    "tests.databases",
    "tests.buckets",
    "tests.clips",
    "tests.cloudflare",
    "tests.worlds",
]

# How long one example takes says nothing on a busy machine. Other examples come each time; test-long looks at many.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile("quick")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares fixtures in one process of `make test`; give long tests their time where they do not say it.

    A file stays together, and so do all the flows: a Prefect server takes 12 s of CPU to start.
    """
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("flows" if file.startswith("tests/flows/") else file))
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1200))
