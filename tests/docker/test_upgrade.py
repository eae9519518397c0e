"""An upgrade as a user makes it: the containers of an earlier release, with their data, under the new image."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.clips import cut
from tests.docker.engine import podman, run, until
from tests.docker.images import build, built
from tests.docker.stack import BUCKET, OVER, Prefect, Stack, bucket, outside, stack
from tests.earlier import EARLIER, unpack

pytestmark = [pytest.mark.long, pytest.mark.soak]
OLD_IMAGE = f"docker.io/library/reelkeeper:{EARLIER}"
ANOTHER_SCHEMA = 7  # the exit code


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[Endpoint]:
    with outside(tmp_path / "s3") as at:
        yield at


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The tree of the earlier release. Its Dockerfile, which could not be built, is mended in the line that failed."""
    tree = unpack(tmp_path)
    file = tree / "docker" / "Dockerfile"
    mended, times = re.subn(r"compileall -q", r"compileall -q -x '/whenever/_typing_312[.]py$'", file.read_text())
    assert times == 1
    file.write_text(mended)
    return tree


def test_an_update_migrates_once_and_old_programs_refuse(earlier: Path, objects: Endpoint, tmp_path: Path) -> None:
    new = built()
    build(OLD_IMAGE, earlier)
    with stack(objects) as made:
        install_earlier(made, earlier)
        made.up("worker")
        before, old_schema = catalogue(made, tmp_path), schema(made)

        made.install()
        made.compose("up", "--detach", "--no-build", "--no-deps", "bootstrap")  # the old worker is still there
        assert podman("wait", made.containers()["bootstrap"][0]["Id"]).strip() == "0"
        new_schema = schema(made)
        if old_schema == new_schema:
            pytest.skip(f"no migration since {EARLIER}")
        for command in (("status",), ("run", "sync_catalog"), ("db", "upgrade")):
            refused = run(*as_worker(made, OLD_IMAGE), "reelkeeper", *command, check=False)
            assert refused.returncode == ANOTHER_SCHEMA, refused.stdout + refused.stderr
        with Prefect(made) as prefect:  # the old worker, which polls pools of other names, leaves it to the new one
            begun = prefect.begin("sync-catalog", {"dry_run": False})
            assert schema(made) == new_schema
            made.up("worker")
            until(lambda: prefect.state(begun) in OVER, 900, "a run of the new worker ends")
            assert prefect.state(begun) == "COMPLETED", prefect.logs(begun)
        assert {item["ImageName"] for item in made.containers()["worker"]} == {new}
        now = json.loads(made.execute("worker", "reelkeeper", "videos", "--json"))
        assert [{name: video[name] for name in old} for video, old in zip(now, before, strict=True)] == before
        made.execute("worker", "reelkeeper", "audit", "verify")
        with Prefect(made) as prefect:
            prefect.hold_schedules()
            prefect.finish("sync-catalog", 900, dry_run=False)


def install_earlier(made: Stack, tree: Path) -> None:
    """Put the earlier release in place: with this test's ports, and mended where it could not run under podman."""
    made.install(tree)
    file = made.folder / "compose.yaml"
    text = re.sub(r"image: reelkeeper:\S+", f"image: {OLD_IMAGE}", file.read_text())
    text = re.sub(r'\[CMD, python, -c, "([^"]+)"\]', r'[CMD-SHELL, "python -c \\"\1\\""]', text)
    text = text.replace("command: [redis-server,", 'command: [redis-server, --protected-mode, "no",')
    for name, port in {"PREFECT_PORT": "4200", "API_PORT": "8787"}.items():
        text = text.replace(f"127.0.0.1:{port}:", f"127.0.0.1:{made.ports[name]}:")
    file.write_text(text)


def catalogue(made: Stack, folder: Path) -> list[dict[str, object]]:
    """Let the old worker adopt a clip; return what the old program shows of it."""
    clip = cut("bikes", folder / "bikes.mp4", start=1, seconds=1, encoder="-preset veryfast -crf 20")
    bucket(made.objects).upload_file(str(clip), BUCKET, "videos/ann/bikes.mp4")
    with Prefect(made) as prefect:  # held, its deployments would be left beside the new ones
        prefect.finish("sync-catalog", 900, dry_run=False)
    found: list[dict[str, object]] = json.loads(made.execute("worker", "reelkeeper", "videos", "--json"))
    assert len(found) == 1
    return found


def schema(made: Stack) -> str:
    """Return the revision of the store's schema, which is one row."""
    ask = ("psql", "--username=postgres", "--dbname=reelkeeper", "--tuples-only", "--no-align", "--no-psqlrc")
    rows = made.execute("postgres", *ask, "--command=SELECT version_num FROM alembic_version").split()
    assert len(rows) == 1
    return rows[0]


def as_worker(made: Stack, image: str) -> list[str]:
    """Give what runs a command of an image where the worker is: its networks, its settings, its secrets."""
    (worker, *_) = made.containers()["worker"]
    networks = [f"--network={name}" for name in worker["NetworkSettings"]["Networks"]]
    environment = [f"--env={item}" for item in worker["Config"]["Env"] if not item.startswith(("PATH=", "HOSTNAME="))]
    mounts = [
        f"--volume={mount['Source']}:{mount['Destination']}:ro" for mount in worker["Mounts"] if mount["Type"] == "bind"
    ]
    return [
        "podman",
        "run",
        "--rm",
        "--timeout=100",
        "--read-only",
        "--tmpfs=/tmp",
        *networks,
        *environment,
        *mounts,
        image,
    ]
