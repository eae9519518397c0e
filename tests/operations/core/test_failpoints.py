"""Every external effect and every commit in `operations/` is between two failpoints.

The fault suites kill at failpoints, so an effect without one would be an effect that no suite has ever interrupted.
"""

import ast
from pathlib import Path

import pytest

OPERATIONS = Path(__file__).parents[3] / "reelkeeper" / "operations"
EFFECTS = {
    "put_once",
    "put_bytes_once",
    "put_over",
    "copy",
    "download",
    "delete",
}  # what changes the bucket, or takes long
READS_ONLY = {"bucket_checks.py", "scan.py"}  # they change nothing that anybody owns: one puts a probe, one reads


@pytest.mark.parametrize("path", sorted(OPERATIONS.rglob("*.py")), ids=lambda path: path.stem)
def test_every_external_effect_is_within_an_effect_block(path: Path) -> None:
    tree = ast.parse(path.read_text())
    covered = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and any(_called(item.context_expr) == "effect" for item in node.items)
        for inner in ast.walk(node)
    }
    bare = [
        f"{path.name}:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _on_bucket(node) and id(node) not in covered
    ]
    assert not bare or path.name in READS_ONLY


@pytest.mark.parametrize("path", sorted(OPERATIONS.rglob("*.py")), ids=lambda path: path.stem)
def test_only_a_named_transaction_commits(path: Path) -> None:
    """`store.engine.transaction` has the failpoints around its commit; nothing in `operations/` goes past it."""
    tree = ast.parse(path.read_text())
    past_it = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"commit", "begin", "connect_raw"} and _is_store(node)
    ]
    assert not past_it


def _called(node: ast.expr) -> str:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""


def _on_bucket(node: ast.Call) -> bool:
    target = node.func
    if not isinstance(target, ast.Attribute) or target.attr not in EFFECTS:
        return False
    return ast.unparse(target.value).split(".")[-1] == "bucket"


def _is_store(node: ast.Attribute) -> bool:
    return ast.unparse(node.value).split(".")[-1] in {"session", "engine", "connection"}
