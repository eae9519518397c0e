"""A copy of this tree, in which guards are switched off and tests are run.

To import everything and to start servers takes ten times the CPU of the test that notices a guard. So a run of tests is
a fork of a process that has imported the library, with servers that are lent (`warm`, `lend`). A guard that nothing
notices there is tried once more in a process of its own, as is one that is more than a change of functions, and one of
the migrations, since they have run in what is lent.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.ablation import lend
from tests.ablation.guards import ROOT, Guard, Witness, without

_TIMEOUT_SECONDS = 900
_ENDLESS_SECONDS = 120
_LEFT_OUT = (".*", "build", "__pycache__", "*.egg-info")
_HAS_RUN = "reelkeeper/store/migrations/"


class Ran(NamedTuple):
    """What a run of tests came to: pytest's exit code, the node ids that failed, and its last lines."""

    code: int
    failed: list[str]
    tail: str


class Copy:
    """A copy of the tree, whose tests import its own code."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)
        for hidden in (".venv", ".venv-foreign", ".ci", ".github", ".git"):
            if (ROOT / hidden).exists():
                (root / hidden).symlink_to(ROOT / hidden)
        self._stamps = itertools.count(int(time.time()) + 1)
        self._changed: dict[str, str] = {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
        self._environment = kept | {"PYTHONPATH": str(root)}
        places = root.parent / f"{root.name}-lent.json"
        self._lender = lend.Lender(root, places, self._environment)
        self._lending = self._environment | {lend.PLACES: str(places)}
        self._warm = subprocess.Popen(
            [sys.executable, "-m", "tests.ablation.warm"],
            cwd=root,
            env=self._lending,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._warm.stdout
        assert self._warm.stdout.readline(), "it has ended while it imported"

    def close(self) -> None:
        """End the processes. The files stay."""
        self._warm.communicate()
        self._lender.close()

    @contextmanager
    def switched_off(self, *pairs: tuple[Guard, Witness]) -> Iterator[None]:
        """Switch these guards off, and on again."""
        texts = {guard.path: (self.root / guard.path).read_text() for guard, _ in pairs}
        for guard, witness in sorted(pairs, key=lambda pair: -pair[0].line):  # from below, so that lines stay
            texts[guard.path] = without(texts[guard.path], guard, witness)
        with self.changed(texts):
            yield

    @contextmanager
    def changed(self, texts: dict[str, str]) -> Iterator[None]:
        """Give the files at these paths other texts, and their own again."""
        originals = {path: (self.root / path).read_text() for path in texts}
        try:
            self._changed = {str(self.root / path): text for path, text in texts.items()}
            for path, text in texts.items():
                self._write(path, text)
            yield
        finally:
            self._changed = {}
            for path, text in originals.items():
                self._write(path, text)

    def run(
        self, tests: Sequence[str], *, max_failures: int = 1, seconds: int = _ENDLESS_SECONDS, tries_alone: bool = True
    ) -> Ran:
        """Run these tests, and see which of them fail.

        `seconds` are for one test: without some guards, work never ends. Without `tries_alone`, servers are lent to a
        process of its own too, and what nothing notices in a fork is not tried again.
        """
        arguments = ["-q", "--no-header", "-n0", f"--maxfail={max_failures}"]
        arguments += [
            f"--timeout={seconds}",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
            "-p",
            "tests.ablation.lend",
        ]
        arguments += [f"--junitxml={self.root / 'report.xml'}", "-o", "junit_family=xunit1", *tests]
        if not any(_HAS_RUN in path for path in self._changed):
            ran = self._in_a_fork(arguments)
            if ran and (ran.failed or not self._changed or not tries_alone):
                return ran
        return self._alone(arguments, self._environment if tries_alone else self._lending)

    def _in_a_fork(self, arguments: list[str]) -> Ran | None:
        said = self.root / "said.txt"
        asked = {"arguments": arguments, "changed": self._changed, "said": str(said), "seconds": _TIMEOUT_SECONDS}
        assert self._warm.stdin
        assert self._warm.stdout
        (self.root / "report.xml").unlink(missing_ok=True)
        self._warm.stdin.write(f"{json.dumps(asked)}\n")
        self._warm.stdin.flush()
        code = json.loads(self._warm.stdout.readline())
        return None if code is None else Ran(code, self._failed(), said.read_text()[-3_000:])

    def _alone(self, arguments: list[str], environment: dict[str, str]) -> Ran:
        (self.root / "report.xml").unlink(missing_ok=True)
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        return Ran(ended.returncode, self._failed(), ended.stdout[-3_000:] + ended.stderr[-500:])

    def _failed(self) -> list[str]:
        report = self.root / "report.xml"
        cases = ET.parse(report).iter("testcase") if report.exists() else ()  # noqa: S314  pytest wrote it
        return [f"{case.get('file')}::{case.get('name')}" for case in cases if case.find("failure") is not None]

    def _write(self, path: str, text: str) -> None:
        place = self.root / path
        place.write_text(text)
        stamp = next(self._stamps)  # each text a time of its own: Python compares whole seconds and the size
        os.utime(place, (stamp, stamp))
