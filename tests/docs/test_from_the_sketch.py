"""The names in docs/from-the-sketch.md exist, and each number in it is the default."""

import ast
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import cache, reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from reelkeeper.rules.core.tiers import Tiers
from tests.docs.conftest import ROOT

PAGE = (ROOT / "docs" / "from-the-sketch.md").read_text()
PLACES = re.findall(r"`([\w/]+\.py)(?:: ([^`]+))?`", PAGE)
NAMES = [(path, name) for path, said in PLACES for name in re.split(r", ?", said) if name]
NUMBERS = [(path, *name.split("=")) for path, name in NAMES if "=" in name]
CLASSES = (
    *("StorageOptimizer", "UserStorageManager", "SmartScheduler", "VideoCache"),
    *("CostManager", "ResourceOptimizer", "PerformanceMonitor", "CostPredictor"),
)
METHODS = (  # that the document writes out, or calls by a name that says what it does
    *("implementTieredStorage", "compressVideo", "cleanupExpiredVideos", "checkUserStorageQuota", "getUserQuota"),
    *("assignTaskPriority", "batchProcessTasks", "estimateProcessingTime", "calculateTaskComplexity", "getSystemLoad"),
    *("checkCache", "cacheVideo", "cleanupCache", "calculateTaskCost", "deductUserCredits", "monitorCosts"),
    *("sendCostAlert", "optimizeConcurrency", "adjustConcurrency", "predictResourceNeeds", "monitorKeyMetrics"),
    *("recordMetrics", "checkPerformanceThresholds", "generateOptimizationSuggestions", "predictMonthlyCost"),
    *("getUserGrowthRate", "getCostOptimizationSuggestions", "recordVideoDeletion", "incrementCacheHit"),
)


def place(path: str) -> Path:
    """Return the path of a file, in the library unless it names another room."""
    return ROOT / path if path.startswith(("flows/", "tasks/", "bench/")) else ROOT / "reelkeeper" / path


@cache
def defined(path: str) -> set[str]:
    """Return all that a file defines: functions, classes, fields and constants."""
    found = set[str]()
    for node in ast.walk(ast.parse(place(path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
    return found


def values(path: str, name: str) -> Iterator[Any]:
    """Return the value of a name in a module: a constant, its attribute, or the default of a policy's field."""
    module = import_module(".".join(place(path).relative_to(ROOT).with_suffix("").parts))
    first, _, rest = name.partition(".")
    if hasattr(module, first):
        yield reduce(_part, rest.split(".") if rest else (), getattr(module, first))
    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__module__ == module.__name__:
            yield from (field.default for field_name, field in kind.model_fields.items() if field_name == name)


def _part(whole: Any, name: str) -> Any:  # noqa: ANN401  whatever a module holds
    return whole.get(name) if isinstance(whole, Tiers) else getattr(whole, name)


def test_there_are_enough_of_them_and_each_class_has_its_section() -> None:
    assert len(PLACES) > 60
    assert len(NUMBERS) > 30
    assert [heading for heading in re.findall(r"^## (\w+)$", PAGE, re.MULTILINE) if heading in CLASSES] == [*CLASSES]
    assert not [method for method in METHODS if f"`{method}`" not in PAGE]


@pytest.mark.parametrize("path", sorted({path for path, _ in PLACES}))
def test_the_file_exists_and_defines_what_is_named(path: str) -> None:
    assert place(path).is_file()
    names = {re.split(r"[=.]", name)[0] for where, name in NAMES if where == path}
    assert names <= defined(path)


@pytest.mark.parametrize(("path", "name", "number"), NUMBERS)
def test_the_number_is_the_default_in_force(path: str, name: str, number: str) -> None:
    found = [*values(path, name)]
    assert found
    assert {Decimal(str(value)) for value in found} == {Decimal(number)}
