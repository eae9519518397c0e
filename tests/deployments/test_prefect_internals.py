"""Private parts of Prefect that are used: they exist, accept our arguments, and are used in only one module."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.prefect_internals import USED

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("deployments", "flows", "tasks", "reelkeeper", "demo")


@pytest.mark.parametrize(("name", "without"), USED.items(), ids=[name.rpartition(":")[2] for name in USED])
def test_each_private_name_of_prefect_exists_with_the_expected_parameters(name: str, without: str) -> None:
    module, path, parameters = re.fullmatch(r"([\w.]+):([\w.]+)(?:\((.*)\))?", name).groups()  # type: ignore[union-attr]  # each name matches
    found: Any = importlib.import_module(module)
    if parameters is None:
        owner, attribute = path.split(".")
        assert re.search(rf"self\.{attribute}\b.* = ", inspect.getsource(getattr(found, owner))), without
        return
    for part in path.split("."):
        assert hasattr(found, part), without
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters) == [part for part in parameters.split(", ") if part], without


@pytest.mark.long
def test_no_other_module_imports_what_is_private_in_prefect() -> None:
    sources = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.name != "prefect_internals.py"]
    assert [f"{path.relative_to(ROOT)}: {name}" for path in sources for name in private(path)] == []


def private(path: Path) -> Iterator[str]:
    """Yield the names a module imports of Prefect that begin with an underscore, or are within one that does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("prefect"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("prefect")]
        else:
            continue
        yield from (name for name in names if "._" in name)
