"""What rules import, and what rooms are called. Who imports whom is in pyproject.toml, which `make check` holds."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PURE = {
    *(
        "abc",
        "bisect",
        "calendar",
        "collections",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "functools",
        "hashlib",
    ),
    *(
        "heapq",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "shlex",
        "statistics",
        "string",
        "typing",
        "unicodedata",
        "zlib",
    ),
}
ALLOWED = PURE | {"pydantic", "reelkeeper.rules", "reelkeeper.model", "reelkeeper.errors"}
FORECASTING = ALLOWED | {"contextlib", "numpy", "pandas", "statsmodels", "warnings"}


def imports(path: Path) -> Iterator[str]:
    """Yield the first name of each import, or the first two of our own."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [f"{node.module}"] if isinstance(node, ast.ImportFrom) else []
        yield from (".".join(name.split(".")[: 2 if name.startswith("reelkeeper") else 1]) for name in names)


def test_rules_import_only_what_cannot_act() -> None:
    rules = [*(ROOT / "reelkeeper" / "rules").rglob("*.py"), *(ROOT / "reelkeeper" / "model").glob("*.py")]
    odd = {
        f"{path.name}: {name}"
        for path in rules
        for name in imports(path)
        if name not in (FORECASTING if "forecast" in (path.stem, path.parent.name) else ALLOWED)
    }
    assert not odd


def test_a_capability_has_the_same_name_in_every_layer() -> None:
    capabilities = {"alerts", "billing", "core", "forecast", "health", "jobs", "lifecycle", "reports", "spend"}
    capabilities |= {"removals", "sync", "videos"}
    for layer in ("rules", "operations", "store"):
        found = {path.name for path in (ROOT / "reelkeeper" / layer).iterdir() if path.name != "__pycache__"}
        assert found - capabilities <= {"__init__.py", "tables", "migrations", "policies.py"}, (
            f"{layer} has a room of another name"
        )
