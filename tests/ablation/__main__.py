"""`python -m tests.ablation [check | list | find NAME TEST ...]`: markers against entries, and who notices a guard."""

import argparse
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.ablation.copies import Copy
from tests.ablation.guards import faults, guards, with_what_masks_it, witnesses


def main() -> int:
    """Run check, list or find; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.ablation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="compare markers and entries; exit 1 where one lacks the other")
    commands.add_parser("list", help="list each guard, where it stands, and what it prevents")
    find = commands.add_parser("find", help="switch a guard off, and run tests to see which of them fail")
    find.add_argument("name", help="of a guard, whose entry has `clause` and `without`")
    find.add_argument("tests", nargs="*", help="paths or node ids; the tests of its entry by default")
    find.add_argument("--max-failures", type=int, default=5)
    asked = parser.parse_args()

    if asked.command == "list":
        for guard in guards().values():
            sys.stdout.write(f"{guard.path}:{guard.line}: {guard.name}: {guard.prevents}\n")
        return 0
    if asked.command == "check":
        found = list(faults(guards(), witnesses()))
        sys.stdout.writelines(f"{fault}\n" for fault in found)
        sys.stdout.write(f"{len(guards())} guards, {len(found)} faults\n")
        return 1 if found else 0
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Copy(Path(folder, "tree"))) as copy,
        copy.switched_off(*with_what_masks_it(asked.name)),
    ):
        ran = copy.run(asked.tests or witnesses()[asked.name].noticed_by, max_failures=asked.max_failures)
    sys.stdout.write("\n".join([ran.tail if not ran.failed else "", *ran.failed, f"pytest ended with {ran.code}", ""]))
    return 0 if ran.failed else 1


if __name__ == "__main__":
    sys.exit(main())
