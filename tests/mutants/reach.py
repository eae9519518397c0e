"""Which quick tests run a line of the library, by one run of them all with coverage, kept until a text changes."""

import ast
import hashlib
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from coverage import CoverageData

from tests.ablation.guards import ROOT
from tests.mutants.operators import Mutant

FOLDERS: Final = tuple(f"tests/{room}" for room in ("rules", "operations", "store", "adapters", "api"))
_KEPT: Final = ROOT / "build" / "mutants"


class Reach:
    """Tests by the lines that they run in this process. What a test starts as another program is not seen."""

    def __init__(self) -> None:
        data = CoverageData(str(_measured()))
        data.read()
        self._tests: dict[str, dict[int, set[str]]] = {}
        self._size: Counter[str] = Counter()  # lines that a test runs: the fewer, the more it is about each
        for file in (file for file in data.measured_files() if file.endswith(".py")):
            path, lines = Path(file).relative_to(ROOT).as_posix(), {}
            for line, contexts in data.contexts_by_lineno(file).items():
                lines[line] = {context.partition("|")[0] for context in contexts if "|" in context}
                self._size.update(lines[line])
            self._tests[path] = lines
        self._uses = _uses(self._tests)

    def tests_of(self, mutant: Mutant, most: int) -> list[str]:
        """Return the tests that run a mutant's lines, or lines that name its constants: the nearest first.

        Of twins on two databases, one is left out.
        """
        places = [(mutant.path, line) for line in mutant.lines]
        places += [place for name in mutant.names for place in self._uses[name]]
        found: set[str] = set().union(*(self._tests.get(path, {}).get(line, set()) for path, line in places))
        found -= {test for test in found if "postgresql" in test and test.replace("postgresql", "sqlite") in found}
        near = {*Path(mutant.path).with_suffix("").parts[1:]}

        def distance(test: str) -> tuple[int, int, str]:
            path = Path(test.partition("::")[0])
            return -len(near & {*path.parts, path.stem.removeprefix("test_")}), self._size[test], test

        return sorted(found, key=distance)[:most]


def _uses(paths: Iterable[str]) -> dict[str, list[tuple[str, int]]]:
    """Find the lines that name a constant or a field, by its name."""
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path in paths:
        for statement in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(statement, ast.Name | ast.Attribute) and isinstance(statement.ctx, ast.Load):
                name = statement.id if isinstance(statement, ast.Name) else statement.attr
                found[name].append((path, statement.lineno))
    return found


def _measured() -> Path:
    """Return the file of coverage of these texts; measure them where there is none."""
    texts = [path for room in ("reelkeeper", "tests") for path in sorted((ROOT / room).rglob("*.py"))]
    kept = _KEPT / hashlib.sha256(b"".join(path.read_bytes() for path in texts)).hexdigest()[:16]
    if not kept.exists():
        sys.stdout.write("the quick tests run once with coverage, to see which lines each of them runs\n")
        sys.stdout.flush()
        _KEPT.mkdir(parents=True, exist_ok=True)
        settings = _KEPT / "coverage.ini"
        settings.write_text(f"[run]\nsource_pkgs = reelkeeper\nbranch = false\ndata_file = {kept}.new\n")
        chosen = ["-q", "-m", "not long", "--numprocesses", "2", "--dist", "loadfile", "-p", "no:randomly", *FOLDERS]
        measure = ["--cov=reelkeeper", f"--cov-config={settings}", "--cov-context=test", "--cov-report="]
        subprocess.run([sys.executable, "-m", "pytest", *chosen, *measure], cwd=ROOT, check=True)
        Path(f"{kept}.new").rename(kept)
    return kept
