"""Fixtures of the fault suites: worlds, and children that can be killed."""

import random
import secrets
import shutil
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.children import FORKED
from tests.doubles.r2 import R2Double
from tests.faults import scenarios
from tests.faults.world import Address, World

EVERY = pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.long)])  # each 13th failpoint, or each
MakeWorld = Callable[[], World]
Child = Callable[[str, Address, str, dict[str, object]], BaseProcess]


@pytest.fixture
def make_world(tmp_path: Path, migrated_file: Path, endpoint: Endpoint, double: R2Double, tiny_clip: Path) -> MakeWorld:
    """Return fresh worlds, each under a prefix of its own."""

    def make() -> World:
        folder = tmp_path / secrets.token_hex(6)
        folder.mkdir()
        shutil.copyfile(migrated_file, folder / "store.sqlite3")
        return World.make(folder, f"sqlite:///{folder / 'store.sqlite3'}", endpoint, double, clip=tiny_clip)

    return make


@pytest.fixture(scope="session")
def start_child() -> Child:
    """Start a scenario in a process forked from a clean one that has imported everything."""

    def start(scenario: str, address: Address, spec: str, arguments: dict[str, object]) -> BaseProcess:
        process = FORKED.Process(target=scenarios.child, args=(scenario, address, spec, arguments))
        process.start()
        return process

    return start


def first_of(every: int) -> int:
    """Say which of the first `every` failpoints to begin with: another one each time, shown where it fails."""
    first = random.randint(1, every)
    print(f"every {every} from {first} on")  # noqa: T201  shown where it fails
    return first


def wait_for_end(process: BaseProcess, seconds: float = 240) -> int:
    """Wait until the child has ended; return its exit code, which is -9 if it was killed."""
    process.join(seconds)
    if process.exitcode is None:
        raise TimeoutError(f"child {process.pid} has not ended after {seconds:.0f} s")
    return process.exitcode
