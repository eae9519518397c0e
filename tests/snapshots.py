"""`python -m tests.snapshots [--long] [FOLDER or FILE ...]`: write the sentences that tests hold in snapshots anew.

Only tests with a snapshot run, and long ones only with --long. What changes is shown as a diff. A test that was renewed
is a failure to pytest, so those run once more, as everywhere: the end is 0 where nothing else has failed.
"""

import argparse
import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory


def holders(path: Path) -> Iterator[str]:
    """Name the tests of a file that hold a snapshot, or the whole file where one is outside of its tests."""
    tree = ast.parse(path.read_text())
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    counts = {node.name: count for node in tests if (count := _count(node))}
    yield from [str(path)] if sum(counts.values()) < _count(tree) else [f"{path}::{name}" for name in counts]


def _count(node: ast.AST) -> int:
    return sum(
        isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "snapshot"
        for part in ast.walk(node)
    )


def main() -> int:
    """Renew the snapshots; return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="those of long tests as well")
    parser.add_argument("places", nargs="*", type=Path, default=[Path("tests")])
    asked = parser.parse_args()
    paths = sorted(path for place in asked.places for path in (place.rglob("test_*.py") if place.is_dir() else [place]))
    tests = [test for path in paths for test in holders(path)]
    if not tests:
        return 0
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}  # if a test calls us
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # for ruff, which formats them
    with TemporaryDirectory() as cache:
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", "not soak" if asked.long else "not long"]
        pytest += ["-o", f"cache_dir={cache}"]
        renew = ["-p", "inline_snapshot", "--inline-snapshot=create,fix", "--tb=no", "-r", "f"]
        if subprocess.run([*pytest, *renew, *tests], env=env, check=False).returncode == 0:
            return 0
        again = ["--last-failed", "--last-failed-no-failures=none", *{test.partition("::")[0] for test in tests}]
        return subprocess.run([*pytest, *again], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
