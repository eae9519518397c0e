"""Fixtures of the flows' tests: a Prefect server for the session, and a small configured deployment."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

# Prefect reads these as it is imported. Without a server of its own a flow would start one in the user's ~/.prefect.
os.environ.pop("PREFECT_API_URL", None)
os.environ.setdefault("PREFECT_HOME", mkdtemp(prefix="prefect-home-"))
os.environ.update(
    {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # below 1 the recorder never rests
    }
)

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.settings import settings
from tests.buckets import BUCKET
from tests.doubles.r2 import R2Double
from tests.faults.world import World
from tests.flows.scenes import Scene, clear

MakeScene = Callable[..., Scene]  # without a URL, on SQLite; else in the migrated database there


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server on SQLite in its own folder; without heartbeats, since a flow's end waits for the next one."""
    from prefect.testing.utilities import prefect_test_harness  # noqa: PLC0415  it loads the whole server: 2 s of CPU

    with (
        prefect_test_harness(server_startup_timeout=600),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:  # noqa: ARG001  it must be up
    """A client of the server, which has nothing of ours before and after the test."""
    with get_client(sync_client=True) as client:
        clear(client)
        yield client
        clear(client)


@pytest.fixture
def make_scene(
    prefect_server: None,  # noqa: ARG001  it must be up
    migrated_file: Path,
    endpoint: Endpoint,
    double: R2Double,
    tiny_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[MakeScene]:
    """Make deployments of a few videos, and have the flows open the last one by their settings, as in production."""
    made: list[Scene] = []

    def make(store_url: str | None = None) -> Scene:
        folder = tmp_path / secrets.token_hex(6)
        folder.mkdir()
        url = store_url or f"sqlite:///{shutil.copyfile(migrated_file, folder / 'store.sqlite3')}"
        world = World.make(folder, url, endpoint, double, clip=tiny_clip)
        at = world.address
        for name, value in {
            "DATABASE_URL": at.store_url,
            "S3_ENDPOINT_URL": at.endpoint_url,
            "S3_ACCESS_KEY_ID": at.access_key_id,
            "S3_SECRET_ACCESS_KEY": at.secret_access_key,
            "BUCKET": BUCKET,
            "PREFIX": at.prefix,
            "STATE_DIR": at.folder,
        }.items():
            monkeypatch.setenv(f"REELKEEPER_{name}", value)
        settings.cache_clear()
        made.append(Scene(world))
        return made[-1]

    yield make
    for scene in made:
        scene.engine.dispose()
    settings.cache_clear()


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    """A deployment of a few videos."""
    return make_scene()
