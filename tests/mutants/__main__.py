"""`python -m tests.mutants ROOM ...`: change rooms of the library in places drawn by a seed, and see who notices."""

import argparse
import random
import re
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

from tests.ablation.copies import Copy, Ran
from tests.ablation.guards import ROOT, guards, witnesses
from tests.mutants.operators import Mutant, mutants, valid
from tests.mutants.reach import KINDS, Reach

_LEFT_OUT = ("/migrations/", "/charts/", "__main__")
_WORDS = ("killed", "survived", "equivalent")
_SECONDS = 60  # for one test, which a mutant may keep from ending


def main() -> int:
    """Draw, run and count what is done, also after Ctrl-C.

    Returns 0 whatever survives, and 1 where equivalent.toml names what is not there any more.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("rooms", nargs="+", help="folders or files below reelkeeper, such as store or api/auth.py")
    parser.add_argument("--number", type=int, default=20, help="mutants of each room")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of what is drawn; printed")
    parser.add_argument("--tests", type=int, default=25, help="that run a mutant's lines, the nearest, are asked")
    parser.add_argument("--long", action="store_true", help="ask as many long tests too; to find them, all run once")
    parser.add_argument("--matching", default="", help="only mutants whose key matches this expression")
    asked = parser.parse_args()
    there = {
        room: [one for one in mutants_of(room) if re.search(asked.matching, one.key)]
        for room in dict.fromkeys(room.strip("/") for room in asked.rooms)
    }
    if empty := [room for room, found in there.items() if not found]:
        parser.error(f"nothing to change in {', '.join(empty)}")

    sys.stdout.write(f"SEED={asked.seed}\n")
    sys.stdout.flush()
    drawn = [(room, one) for room, found in there.items() for one in draw(found, f"{asked.seed} {room}", asked.number)]
    reaches = [Reach(kind) for kind in (KINDS if asked.long else KINDS[:1])]
    reasons, verdicts, survivors = equivalents(), Counter[tuple[str, str]](), []
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Copy(Path(folder, "tree"))) as copy,
        suppress(KeyboardInterrupt),
    ):
        for room, word, key in _told(drawn, Jury(copy, reasons), reaches, asked.tests):
            verdicts[room, word] += 1
            survivors += [key] if word == "survived" else []
    sys.stdout.write("\n".join([*table({room: len(found) for room, found in there.items()}, verdicts), ""]))
    sys.stdout.write("".join(f"survived: {key}\n" for key in survivors))
    stale = [key for key in reasons if key not in {one.key for one in mutants_of(_room_of(key))}]
    sys.stdout.write("".join(f"equivalent.toml names no mutant of today's code: {key}\n" for key in stale))
    return 1 if stale else 0


def _told(
    drawn: list[tuple[str, Mutant]], jury: "Jury", reaches: Sequence[Reach], most: int
) -> Iterator[tuple[str, str, str]]:
    """Give the room, the verdict and the key of each mutant, and print them with how long the others will take."""
    began = time.monotonic()
    for done, (room, one) in enumerate(drawn, 1):
        at = time.monotonic()
        word, by = jury.verdict(one, [test for reach in reaches for test in reach.tests_of(one, most)])
        now = time.monotonic()
        left = (now - began) / done * (len(drawn) - done) / 60
        sys.stdout.write(f"{done:>4}/{len(drawn)}, {left:.0f} min left  {word:11}{now - at:5.1f} s  {one.key}\n")
        sys.stdout.write(f"{'':26}{by}\n")
        sys.stdout.flush()
        yield room, word, one.key


def _room_of(key: str) -> str:
    return key.partition("::")[0].removeprefix("reelkeeper/")


def table(there: dict[str, int], verdicts: Counter[tuple[str, str]]) -> Iterator[str]:
    """Count by room, and in all; the share is of what is not equivalent."""
    yield f"{'room':16}{'of':>7}{'drawn':>7}{'killed':>8}{'survived':>10}{'equivalent':>12}{'noticed':>9}"
    rows = {room: Counter({word: verdicts[room, word] for word in _WORDS}) for room in there}
    for room, row in (rows | {"all": sum(rows.values(), Counter())}).items():
        judged = row["killed"] + row["survived"]
        share = f"{row['killed'] / judged:.0%}" if judged else "-"
        of = there.get(room, sum(there.values()))
        killed, survived, equivalent = (row[word] for word in _WORDS)
        yield f"{room:16}{of:>7,}{row.total():>7}{killed:>8}{survived:>10}{equivalent:>12}{share:>9}"


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


class Jury:
    """Tests that are asked about mutants in one copy. One that fails without the change as well is not asked again."""

    def __init__(self, copy: Copy, reasons: dict[str, str]) -> None:
        self._copy = copy
        self._reasons = reasons
        self._passes: dict[str, bool] = {}

    def verdict(self, mutant: Mutant, tests: list[str]) -> tuple[str, str]:
        """Say what becomes of a mutant, and by what."""
        if mutant.key in self._reasons:
            return "equivalent", self._reasons[mutant.key]
        asked = [test for test in tests if self._passes.get(test, True)]
        while asked:
            with self._copy.changed({mutant.path: mutant.text}):
                ran = self._run(asked)
            if not ran.code:
                return "survived", f"{len(asked)} tests that run it"
            if not ran.failed:
                return "killed", "what broke them"
            if ran.failed[0] not in asked or self._is_sound(ran.failed[0]):
                return "killed", ran.failed[0]
            asked.remove(ran.failed[0])
        return "survived", "no test of these runs it"

    def _is_sound(self, test: str) -> bool:
        if test not in self._passes:
            self._passes[test] = self._run([test]).code == 0
        return self._passes[test]

    def _run(self, tests: list[str]) -> Ran:
        return self._copy.run(tests, seconds=_SECONDS, tries_alone=False)


if __name__ == "__main__":
    sys.exit(main())
