"""`python -m tests.mutants ROOM ...`: change rooms of the library in places drawn by a seed, and see who notices."""

import argparse
import random
import re
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from tests.ablation.copies import Copy
from tests.ablation.guards import ROOT, guards, witnesses
from tests.mutants.operators import Mutant, mutants, valid
from tests.mutants.reach import Reach

_LEFT_OUT = ("/migrations/", "/charts/", "__main__")
_SECONDS = 60  # for one test, which a mutant may keep from ending


def main() -> int:
    """Draw, run and count; the exit code is 0 whatever survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("rooms", nargs="+", help="folders or files below reelkeeper, such as store or api/auth.py")
    parser.add_argument("--number", type=int, default=20, help="mutants of each room")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of what is drawn; printed")
    parser.add_argument("--tests", type=int, default=25, help="that run a mutant's lines, the nearest, are asked")
    parser.add_argument("--matching", default="", help="only mutants whose key matches this expression")
    asked = parser.parse_args()

    sys.stdout.write(f"SEED={asked.seed}\n")
    reach, reasons, counts = Reach(), equivalents(), {}
    with tempfile.TemporaryDirectory() as folder, closing(Copy(Path(folder, "tree"))) as copy:
        for room in asked.rooms:
            there = [one for one in mutants_of(room) if re.search(asked.matching, one.key)]
            drawn = draw(there, f"{asked.seed} {room}", asked.number)
            verdicts = Counter(told(one, copy, reach.tests_of(one, asked.tests), reasons) for one in drawn)
            counts[room] = (len(there), len(drawn), *(verdicts[word] for word in ("killed", "survived", "equivalent")))
    sys.stdout.write(f"{'room':24}{'of':>7}{'drawn':>7}{'killed':>8}{'survived':>10}{'equivalent':>12}\n")
    for room, (of, *figures) in counts.items():
        sys.stdout.write("{:24}{:>7}{:>7}{:>8}{:>10}{:>12}\n".format(room, of, *figures))
    for key in reasons:
        if not any(one.key == key for one in mutants_of(key.partition("::")[0].removeprefix("reelkeeper/"))):
            sys.stdout.write(f"equivalent.toml names no mutant of today's code: {key}\n")
    return 0


def equivalents() -> dict[str, str]:
    """Return the reason for each mutant that changes nothing that anybody was promised, by its key."""
    return dict(tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text()))


def draw(candidates: list[Mutant], seed: str, number: int) -> list[Mutant]:
    """Draw mutants that are Python: an update without its only field is not."""
    return list(islice(valid(random.Random(seed).sample(candidates, len(candidates))), number))


def mutants_of(room: str) -> list[Mutant]:
    """Return the mutants of the unmarked code in a folder or file of the library."""
    place = ROOT / "reelkeeper" / room
    found: list[Mutant] = []
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.exists() else []:
        path, source = file.relative_to(ROOT).as_posix(), file.read_text()
        if not any(part in path for part in _LEFT_OUT):
            marked = list(_marked(path, source))
            found += [
                one
                for one in mutants(path, source)
                if not any(begin <= one.place[0] and one.place[1] <= end for begin, end in marked)
            ]
    return found


def _marked(path: str, source: str) -> Iterator[tuple[int, int]]:
    """Find where the marked clauses are, in bytes: their witnesses are asked by tests/ablation."""
    for guard in guards().values():
        if guard.path == path:
            above = "".join(source.splitlines(keepends=True)[: guard.line - 1])
            clause = witnesses()[guard.name].clause
            begin = len(source[: source.index(clause, len(above))].encode())
            yield begin, begin + len(clause.encode())


def told(mutant: Mutant, copy: Copy, tests: list[str], reasons: dict[str, str]) -> str:
    """Run the tests of one mutant, print its verdict, and return its word."""
    began, by = time.monotonic(), ""
    if mutant.key in reasons:
        verdict, by = "equivalent", reasons[mutant.key]
    elif not tests:
        verdict, by = "survived", "no quick test runs it"
    else:
        with copy.changed({mutant.path: mutant.text}):
            ran = copy.run(tests, seconds=_SECONDS, tries_alone=False)
        verdict = "killed" if ran.code else "survived"
        by = (ran.failed or ["what broke them"])[0] if ran.code else f"{len(tests)} tests that run it"
    sys.stdout.write(f"{verdict:11}{time.monotonic() - began:5.1f} s  {mutant.key}\n{'':20}{by}\n")
    sys.stdout.flush()
    return verdict


if __name__ == "__main__":
    sys.exit(main())
