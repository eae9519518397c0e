"""Start worker processes that begin together, for tests and the benchmark of several workers on one plan."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def workers(flows: list[str], environment: Mapping[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a process for each flow, wait until all are ready, and let them begin together. None is left at the end."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        started = []
        for flow in flows:
            command = [sys.executable, "-m", "tests.flows.worker_process", flow]
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **pipes)
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in started:
            said = cast("IO[str]", process.stdout).readline()
            if said != "ready\n":
                raise RuntimeError(f"a worker said {said!r} instead of being ready")
        for process in started:
            begin = cast("IO[str]", process.stdin)
            begin.write("go\n")
            begin.flush()
        yield started
