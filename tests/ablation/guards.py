"""Read the markers in the code and the entries about them, and compare the two."""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("reelkeeper", "flows", "tasks", "deployments", "docker")
_MARKER = re.compile(r"# guard ([a-z0-9_]+(?:\.[a-z0-9_]+)+): (.+)")
_ANY_MARKER = re.compile(r"# *guard\b[ :]")
_NEAR = 12  # lines from a marker to the end of its clause


class Guard(NamedTuple):
    """A marked clause: `line` counts from 1."""

    name: str
    prevents: str
    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Witness:
    """What switches a guard off, and which tests notice: node ids, each without its parameters."""

    name: str
    clause: str
    without: str
    noticed_by: tuple[str, ...]
    masked_by: tuple[str, ...] = ()


@cache
def guards() -> dict[str, Guard]:
    """Read the markers, by path and line. Raises ValueError for an unreadable marker, or a name used twice."""
    found: dict[str, Guard] = {}
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not _ANY_MARKER.search(line):
                continue
            marker = _MARKER.search(line)
            if not marker:
                raise ValueError(f"{where}:{number}: a marker reads '# guard area.name: what it prevents'")
            guard = Guard(marker[1], marker[2], where, number)
            if guard.name in found:
                raise ValueError(f"{where}:{number}: {found[guard.name].path} has a guard {guard.name}, too")
            found[guard.name] = guard
    return found


@cache
def witnesses() -> dict[str, Witness]:
    """Read all entries by name. Raises ValueError for one that is incomplete, or in two files."""
    found: dict[str, Witness] = {}
    for path in sorted((Path(__file__).parent / "witnesses").glob("*.toml")):
        for name, entry in tomllib.loads(path.read_text()).items():
            try:
                fields: dict[str, Any] = {
                    key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
                }
                witness = Witness(name, **fields)
            except TypeError as error:
                raise ValueError(f"{path.name}: {name}: {error}") from None
            if name in found:
                raise ValueError(f"{path.name}: {name} stands in another file, too")
            found[name] = witness
    return found


def with_what_masks_it(name: str) -> list[tuple[Guard, Witness]]:
    """Return a guard and the guards that mask it, with their entries: all are switched off together."""
    return [(guards()[other], witnesses()[other]) for other in (name, *witnesses()[name].masked_by)]


def without(source: str, guard: Guard, witness: Witness) -> str:
    """Return the module's text with the guard switched off. Raises ValueError where its clause is not by its marker."""
    lines = source.splitlines(keepends=True)
    before, near = "".join(lines[: guard.line - 1]), "".join(lines[guard.line - 1 : guard.line - 1 + _NEAR])
    if witness.clause not in near:
        raise ValueError(f"{guard.path}:{guard.line}: {guard.name}: no {witness.clause!r} by its marker")
    changed = before + near.replace(witness.clause, witness.without, 1) + "".join(lines[guard.line - 1 + _NEAR :])
    try:
        ast.parse(changed)
    except SyntaxError as error:
        raise ValueError(f"{guard.name}: what stands there without it is no Python: {error}") from None
    return changed


def faults(named: Mapping[str, Guard], entries: Mapping[str, Witness]) -> Iterator[str]:
    """Return the faults: guards without a witness, witnesses without a guard, missing clauses or tests."""
    for guard in named.values():
        if guard.name not in entries:
            yield f"{guard.path}:{guard.line}: {guard.name}: no test is named that notices its absence"
    for witness in entries.values():
        if witness.name not in named:
            yield f"{witness.name}: nothing in the code is marked so"
            continue
        guard = named[witness.name]
        try:
            without((ROOT / guard.path).read_text(), guard, witness)
        except ValueError as error:
            yield str(error)
        if not witness.noticed_by:
            yield f"{witness.name}: no test is named that notices its absence"
        yield from (f"{witness.name}: no test {test}" for test in witness.noticed_by if not _exists(test))
        yield from (
            f"{witness.name}: masked by {other}, which is no guard" for other in witness.masked_by if other not in named
        )


def _exists(test: str) -> bool:
    path, _, name = test.partition("::")
    place = ROOT / path
    return place.is_file() and bool(
        re.search(rf"^\s*(async )?def {re.escape(name.rpartition('::')[2])}\(", place.read_text(), re.MULTILINE)
    )
