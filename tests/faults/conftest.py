"""Fixtures of the fault suites: worlds, and children that can be killed."""

import multiprocessing
import secrets
import shutil
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from reelkeeper.adapters.seaweed import Endpoint
from reelkeeper.model import Transcode
from reelkeeper.operations.transcode import shrink
from tests.doubles.r2 import R2Double
from tests.faults import scenarios
from tests.faults.world import Address, World

MakeWorld = Callable[[], World]
Child = Callable[[str, Address, str, dict[str, object]], BaseProcess]


@pytest.fixture
def make_world(tmp_path: Path, migrated_file: Path, endpoint: Endpoint, double: R2Double, tiny_clip: Path) -> MakeWorld:
    """Give fresh worlds, each under a prefix of its own."""

    def make() -> World:
        folder = tmp_path / secrets.token_hex(6)
        folder.mkdir()
        shutil.copyfile(migrated_file, folder / "store.sqlite3")
        return World.make(folder, f"sqlite:///{folder / 'store.sqlite3'}", endpoint, double, clip=tiny_clip)

    return make


@pytest.fixture(scope="session")
def tiny_transcode(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Transcode:
    """The tiny clip made smaller for real, once: what the kills are about comes after it."""
    result = shrink(tiny_clip, tmp_path_factory.mktemp("transcode"))
    assert isinstance(result, Transcode), result
    return result


@pytest.fixture(scope="session")
def start_child() -> Child:
    """Start a scenario in a process forked from a clean one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.scenarios"])
    one_at_a_time = threading.Lock()  # two threads that start children at once mix up their pipes

    def start(scenario: str, address: Address, spec: str, arguments: dict[str, object]) -> BaseProcess:
        process = context.Process(target=scenarios.child, args=(scenario, address, spec, arguments))
        with one_at_a_time:
            process.start()
        return process

    return start
