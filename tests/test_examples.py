"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

from tests.test_style import ROOT, SHIPPED, sources, text


@pytest.mark.parametrize(
    "path", [path.relative_to(ROOT) for path in sources(*SHIPPED, "bench") if ">>> " in text(path)]
)
def test_examples_are_true(path: Path) -> None:
    found = doctest.testmod(importlib.import_module(".".join(path.with_suffix("").parts)))
    assert found.attempted
    assert not found.failed
