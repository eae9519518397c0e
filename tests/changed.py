"""`python -m tests.changed [COMMIT]`: run the quick tests that what changed since a commit can break; HEAD by default.

A test file depends on what it imports, directly or not, and inside of functions too; on each conftest.py above it; and
on the modules of fixtures whose fixtures it names. A file that is no module concerns the tests that name it or its
folder. What a test starts as another program is not seen, so `make test` still decides. pytest-testmon, which notes the
lines that each test runs, sees no child processes either, of which half of this suite is made, and knows nothing before
a whole run of its own.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
ROOMS: Final = ("reelkeeper", "tasks", "flows", "deployments", "demo", "docker", "bench", "docs", "tests")
_ALL: Final = ("pyproject.toml", "requirements.lock", "tests/conftest.py")  # each may break any test
_LOADED_BY_NAME: Final = {"reelkeeper/store/migrations/": "reelkeeper/store/core/schema.py"}
_FIXTURE: Final = re.compile(r"^@pytest\.fixture.*\n(?:@.*\n)*(?:async )?def (\w+)\(", re.MULTILINE)


class Graph:
    """Which files each Python file of a tree depends on, as paths relative to its root."""

    def __init__(self, root: Path) -> None:
        paths = [path for room in ROOMS for path in (root / room).rglob("*.py")]
        self.texts = {path.relative_to(root).as_posix(): path.read_text() for path in paths}
        plugins = re.findall(r'"tests\.(\w+)"', self.texts["tests/conftest.py"])
        self._fixtures = {
            path: set(_FIXTURE.findall(self.texts[path])) for name in plugins if (path := f"tests/{name}.py")
        }
        self._users: dict[str, set[str]] = defaultdict(set)
        for path, text in self.texts.items():
            tree = ast.parse(text)
            for other in {*self._imported(tree), *self._around(path, tree)} - {path}:
                self._users[other].add(path)
            for folder, loader in _LOADED_BY_NAME.items():
                if path.startswith(folder):
                    self._users[path].add(loader)

    def _imported(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
            else:
                continue
            for name in names:
                steps = name.split(".")
                for end in range(1, len(steps) + 1):  # a package's __init__ runs as well
                    place = "/".join(steps[:end])
                    yield from {f"{place}.py", f"{place}/__init__.py"} & self.texts.keys()

    def _around(self, path: str, tree: ast.Module) -> Iterator[str]:
        if not path.startswith("tests/"):
            return
        for folder in Path(path).parents:
            if (conftest := f"{folder.as_posix()}/conftest.py") in self.texts:
                yield conftest
        asked = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        asked |= {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}  # getfixturevalue
        yield from (other for other, names in self._fixtures.items() if names & asked)

    def tests_of(self, changed: set[str]) -> set[str]:
        """Return the test files that depend on one of these files."""
        reached: set[str] = set()
        waiting = [*changed, *(path for name in changed - self.texts.keys() for path in self._naming(name))]
        while waiting:
            path = waiting.pop()
            if path not in reached:
                reached.add(path)
                waiting += self._users[path]
        tests = {path for path in self.texts if Path(path).name.startswith("test_")}
        return tests if changed & set(_ALL) else reached & tests

    def _naming(self, name: str) -> Iterator[str]:
        words = {Path(name).name, *(f'"{folder}"' for folder in Path(name).parts[:-1])}
        yield from (
            path
            for path, text in self.texts.items()
            if Path(path).name.startswith("test_") and any(word in text for word in words)
        )


def changed_since(commit: str) -> set[str]:
    """Ask git for the files that differ from a commit, those included that it does not know yet."""
    git = shutil.which("git") or "git"
    said = [
        subprocess.run([git, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for words in (["diff", "--name-only", commit], ["ls-files", "--others", "--exclude-standard"])
    ]
    return set("".join(said).split())


def main() -> int:
    """Run the tests; return pytest's exit code, or 0 where there are none."""
    tests = sorted(Graph(ROOT).tests_of(changed_since(sys.argv[1] if len(sys.argv) > 1 else "HEAD")))
    sys.stdout.write(f"{len(tests)} files of tests depend on what has changed\n")
    sys.stdout.flush()
    there = [test for test in tests if (ROOT / test).exists()]
    command = [sys.executable, "-m", "pytest", "-m", "not long", "--numprocesses", "2", "--dist", "loadfile"]
    return subprocess.run([*command, *there], cwd=ROOT, check=False).returncode if there else 0


if __name__ == "__main__":
    sys.exit(main())
