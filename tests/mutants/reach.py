"""Which quick or long tests run a line of the library, by one run of them all with coverage.

It is kept until the library changes; of tests, only the files that have changed run again. Of long ones, what needs
PostgreSQL is left out.
"""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from coverage import CoverageData

from tests.ablation.guards import ROOT
from tests.mutants.operators import Mutant

FOLDERS: Final = tuple(f"tests/{room}" for room in ("rules", "operations", "store", "adapters", "api", "cli"))
_KEPT: Final = ROOT / "build" / "mutants"
_CHOSEN: Final = {"quick": ("-m", "not long"), "long": ("-m", "long and not soak", "-k", "not postgresql")}
KINDS: Final = tuple(_CHOSEN)
_MEASURED: Final = {0, 1, 5}  # pytest's: all passed, some failed, no such test there


class Reach:
    """Quick or long tests by the lines that they run in this process. What a test starts as a program is not seen."""

    def __init__(self, kind: str) -> None:
        self._tests: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._size: Counter[str] = Counter()  # lines that a test runs: the fewer, the more it is about each
        for coverage, tests in _measured(kind).items():
            data = CoverageData(str(coverage))
            data.read()
            for file in (file for file in data.measured_files() if file.endswith(".py")):
                lines = self._tests[Path(file).relative_to(ROOT).as_posix()]
                for line, contexts in data.contexts_by_lineno(file).items():
                    found = {context.partition("|")[0] for context in contexts if context.partition("::")[0] in tests}
                    lines[line] |= found
                    self._size.update(found)
        modules = {path: ast.parse((ROOT / path).read_text()) for path in self._tests}
        self._uses = _uses(modules)
        self._built = {path: built_once(module) for path, module in modules.items()}

    def tests_of(self, mutant: Mutant, most: int) -> list[str]:
        """Return the tests that run a mutant's lines, or lines that name what is built there once: the nearest first.

        Of twins on two databases, one is left out.
        """
        places = [(mutant.path, line) for line in mutant.lines]
        places += [place for name in mutant.names for place in self._uses[name]]
        function = mutant.key.partition("::")[2].partition(":")[0]
        kept = self._built.get(mutant.path, {}).get(function, set())
        places += [place for name in kept for place in self._uses[name] if place[0] == mutant.path]
        found: set[str] = set().union(*(self._tests.get(path, {}).get(line, set()) for path, line in places))
        found -= {test for test in found if "postgresql" in test and test.replace("postgresql", "sqlite") in found}
        near = {*Path(mutant.path).with_suffix("").parts[1:]}

        def distance(test: str) -> tuple[int, int, str]:
            path = Path(test.partition("::")[0])
            return -len(near & {*path.parts, path.stem.removeprefix("test_")}), self._size[test], test

        return sorted(found, key=distance)[:most]


def _uses(modules: Mapping[str, ast.Module]) -> dict[str, list[tuple[str, int]]]:
    """Find the lines that name a constant or a field, by its name."""
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path, module in modules.items():
        for statement in ast.walk(module):
            if isinstance(statement, ast.Name | ast.Attribute) and isinstance(statement.ctx, ast.Load):
                name = statement.id if isinstance(statement, ast.Name) else statement.attr
                found[name].append((path, statement.lineno))
    return found


def built_once(module: ast.Module) -> dict[str, set[str]]:
    """Find the functions whose results a module keeps: as constants, or in a cache. No test but the first runs them.

    Return the names of these results by function, also for what such a function calls.
    """
    called, kept = dict[str, set[str]](), defaultdict[str, set[str]](set)
    for one in module.body:
        calls = {
            call.func.id for call in ast.walk(one) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        }
        if isinstance(one, ast.FunctionDef):
            called[one.name] = calls
            if any("cache" in ast.unparse(decorator) for decorator in one.decorator_list):
                kept[one.name].add(one.name)
        elif isinstance(one, ast.Assign | ast.AnnAssign):
            names = [node for node in ast.walk(one) if isinstance(node, ast.Name)]
            for name in calls:
                kept[name] |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for _ in called:  # at most as deep as there are functions
        for name, calls in called.items():
            for inner in calls & called.keys() if kept[name] else ():
                kept[inner] |= kept[name]
    return kept


def _measured(kind: str) -> dict[Path, set[str]]:
    """Return the files of coverage, each with the files of tests that it is the newest of; measure what is missing."""
    library = b"".join(path.read_bytes() for path in sorted((ROOT / "reelkeeper").rglob("*.py")))
    kept = _KEPT / kind / hashlib.sha256(library).hexdigest()[:16]
    texts = {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("test_*.py"))
    }
    index = kept / "index.json"
    if not index.exists():
        shutil.rmtree(kept.parent, ignore_errors=True)
        kept.mkdir(parents=True)
        index.write_text("{}")
    known = {path: of for path, of in json.loads(index.read_text()).items() if path in texts}
    changed = [path for path, text in texts.items() if known.get(path, [""])[0] != text]
    if changed:
        sys.stdout.write(f"{kind} tests of {len(changed)} files run once with coverage, to see which lines each runs\n")
        sys.stdout.flush()
        number = 1 + max((number for _, number in known.values()), default=0)
        _measure(kind, changed, kept / str(number))
        known |= {path: [texts[path], number] for path in changed}
        index.write_text(json.dumps(known))
    found: dict[Path, set[str]] = defaultdict(set)
    for path, (_, number) in known.items():
        if (kept / str(number)).exists():  # or none is of this kind
            found[kept / str(number)].add(path)
    return found


def _measure(kind: str, tests: list[str], into: Path) -> None:
    settings = into.with_name("coverage.ini")
    settings.write_text(f"[run]\nsource_pkgs = reelkeeper\nbranch = false\ndata_file = {into}\n")
    chosen = ["-q", *_CHOSEN[kind], "--numprocesses", "2", "--dist", "loadfile", "-p", "no:randomly", *tests]
    measure = ["--cov=reelkeeper", f"--cov-config={settings}", "--cov-context=test", "--cov-report="]
    code = subprocess.run([sys.executable, "-m", "pytest", *chosen, *measure], cwd=ROOT, check=False).returncode
    data = CoverageData(str(into))
    data.read()
    # One that fails is told, and asked no mutant in vain: what it says without the change is asked as well.
    if code not in _MEASURED or (code == 1 and data.measured_contexts() <= {""}):  # 1, too, where none was collected
        raise SystemExit(f"pytest ended with {code}: nothing is known of which tests run a line")
