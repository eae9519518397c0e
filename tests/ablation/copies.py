"""A copy of this tree, in which guards are switched off and tests are run."""

import itertools
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

from tests.ablation.guards import ROOT, Guard, Witness, without

_TIMEOUT_SECONDS = 900
_ENDLESS_SECONDS = 120
_LEFT_OUT = (".*", "build", "__pycache__", "*.egg-info")


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
        for hidden in (".venv", ".ci", ".github", ".git"):
            if (ROOT / hidden).exists():
                (root / hidden).symlink_to(ROOT / hidden)
        self._stamps = itertools.count(int(time.time()) + 1)

    @contextmanager
    def switched_off(self, *pairs: tuple[Guard, Witness]) -> Iterator[None]:
        """Switch these guards off, and on again."""
        originals = {guard.path: (self.root / guard.path).read_text() for guard, _ in pairs}
        texts = dict(originals)
        for guard, witness in sorted(pairs, key=lambda pair: -pair[0].line):  # from below, so that lines stay
            texts[guard.path] = without(texts[guard.path], guard, witness)
        try:
            for path, text in texts.items():
                self._write(path, text)
            yield
        finally:
            for path, text in originals.items():
                self._write(path, text)

    def run(self, tests: Sequence[str], *, max_failures: int = 1) -> Ran:
        """Run these tests, and see which of them fail."""
        report = self.root / "report.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", f"--maxfail={max_failures}"]
        command += [f"--timeout={_ENDLESS_SECONDS}"]  # of one test: without some guards, work never ends
        command += ["-p", "no:cacheprovider", "-p", "no:randomly", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
        ended = subprocess.run(
            [*command, *tests],
            cwd=self.root,
            env=environment | {"PYTHONPATH": str(self.root)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        cases = ET.parse(report).iter("testcase") if report.exists() else ()  # noqa: S314  pytest wrote it
        failed = [f"{case.get('file')}::{case.get('name')}" for case in cases if case.find("failure") is not None]
        return Ran(ended.returncode, failed, ended.stdout[-3_000:] + ended.stderr[-500:])

    def _write(self, path: str, text: str) -> None:
        place = self.root / path
        place.write_text(text)
        stamp = next(self._stamps)  # each text a time of its own: Python compares whole seconds and the size
        os.utime(place, (stamp, stamp))
