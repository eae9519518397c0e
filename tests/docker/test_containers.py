"""Every container of compose.yaml at work together, as plain processes: see containers.py for what differs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest

from reelkeeper.adapters import seaweed
from tests.docker.containers import Container, Host, postgres, until
from tests.docker.image import COMPOSE, FOLDER, SERVICES

FLOWS = {path.stem.replace("_", "-") for path in (Path(__file__).parents[2] / "flows").glob("[a-z]*.py")}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A machine with the servers' programs, and a bucket. Its folder is not pytest's, which is closed to nobody."""
    missing = [name for name in ("redis-server", "setpriv") if not shutil.which(name)]
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        missing.append("postgresql")
    if missing and "CI" not in os.environ:
        pytest.skip(f"no {', '.join(missing)} here; .ci/run installs it")
    assert not missing
    with (
        tempfile.TemporaryDirectory(prefix="reelkeeper-compose-", ignore_cleanup_errors=True) as folder,
        seaweed.running(tmp_path / "s3", "films") as bucket,
    ):
        Path(folder).chmod(0o755)
        made = Host(Path(folder), {"REELKEEPER_S3_ENDPOINT_URL": bucket.endpoint_url, "REELKEEPER_BUCKET": "films"})
        for name, value in {
            "access_key_id": bucket.access_key_id,
            "secret_access_key": bucket.secret_access_key,
        }.items():
            (made.folder / "secrets" / f"reelkeeper_s3_{name}").write_text(value)
        yield made


@pytest.mark.long
def test_every_container_does_its_part(host: Host) -> None:
    with ExitStack() as stack:
        made = {name: Container(host, name) for name in SERVICES if name != "postgres"}

        def start(*names: str) -> None:
            for wait in [stack.enter_context(made[name].running()) for name in names]:
                wait()

        database, command = postgres(host)
        stack.enter_context(database.running(command))()
        start("redis")
        made["prefect-migrate"].run()
        assert not made["prefect-services"].is_healthy(), "its healthcheck passes while it is not there"
        start("prefect-api", "prefect-services")
        with Prefect(host) as prefect:
            nobody_gets_in(host, prefect)

            assert "Work pool transcode: made" in made["bootstrap"].run()
            assert {found["name"] for found in prefect.ask("flows/filter")} == FLOWS

            a_pool_of_a_cluster_is_taken(made["bootstrap"])

            start("worker", "transcoder", "api", "watchdog")
            prefect.finish("deliver-alerts", "tier-storage")
            assert httpx.get(host.url("8787") + "/v1/metrics").status_code == httpx.codes.UNAUTHORIZED

            the_api_has_a_run_begun(made["api"])
            ffmpeg_is_behind_what_walls_docker_grants(made["transcoder"])
            no_secret_can_be_seen(host)
            root_is_read_only(made["api"])


class Prefect:
    """A person at Prefect's API: with the password, and a token against forged requests."""

    def __init__(self, host: Host) -> None:
        user, _, password = host.secret("prefect_auth").partition(":")
        self.client = httpx.Client(base_url=host.url("4200") + "/api/", auth=(user, password), timeout=60)

    def __enter__(self) -> Self:
        token = self.client.get("csrf-token", params={"client": "test"}).raise_for_status().json()["token"]
        self.client.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "test"})
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def ask(self, path: str, **body: object) -> Any:  # noqa: ANN401  JSON
        return self.client.post(path, json=body).raise_for_status().json()

    def finish(self, *flows: str) -> None:
        """Have flows run by their workers, and wait until each and its tasks are recorded, over Redis."""
        made = []
        for flow in flows:
            deployment = self.client.get(f"deployments/name/{flow}/scheduled").raise_for_status().json()["id"]
            made.append(self.ask(f"deployments/{deployment}/create_flow_run")["id"])

        def states(kind: str) -> list[str]:
            found = [one["state"] for one in self.ask(f"{kind}/filter", flow_runs={"id": {"any_": made}})]
            assert not [state for state in found if state["type"] in {"FAILED", "CRASHED", "CANCELLED"}]
            return [state["type"] for state in found]

        until(lambda: states("flow_runs") == ["COMPLETED"] * len(flows))
        until(lambda: set(states("task_runs")) == {"COMPLETED"})


def nobody_gets_in(host: Host, prefect: Prefect) -> None:
    """Without the password only health is told; with it, nothing is changed without the token."""
    url = host.url("4200")
    assert httpx.get(f"{url}/api/health").status_code == httpx.codes.OK
    assert httpx.get(f"{url}/").status_code == httpx.codes.OK  # the UI, which was unpacked under /tmp
    for path in (
        "admin/version",
        "csrf-token?client=test",
        "deployments/name/tier-storage/scheduled",
        "variables/name/x",
    ):
        assert httpx.get(f"{url}/api/{path}").status_code == httpx.codes.UNAUTHORIZED
        assert httpx.get(f"{url}/api/{path}", auth=("admin", "guessed")).status_code == httpx.codes.UNAUTHORIZED
    refused = httpx.post(f"{url}/api/flows/filter", json={}, auth=prefect.client.auth)
    assert (refused.status_code, refused.json()["detail"]) == (403, "Missing CSRF token.")
    assert prefect.ask("flows/filter") == []


def a_pool_of_a_cluster_is_taken(container: Container) -> None:
    """Prefect's server takes the template of docker/kubernetes."""
    file = container.places["/tmp"] / "transcode.json"  # noqa: S108  the container's own
    template = FOLDER / "kubernetes" / "template.py"
    file.write_bytes(subprocess.run([sys.executable, str(template)], check=True, capture_output=True).stdout)
    create = ["prefect", "work-pool", "create", "cluster", "--type", "kubernetes", "--base-job-template", str(file)]
    code, said = container.execute(*create)
    assert (code, "Created work pool 'cluster'" in said) == (0, True), said


def the_api_has_a_run_begun(container: Container) -> None:
    """What it does when a job is queued: through Prefect's API, with password and token."""
    start = "connect(settings()).start('prune-cache', 'scheduled', {}, key='once')"
    imports = "from reelkeeper.adapters.orchestrator import connect; from reelkeeper.settings import settings"
    code, said = container.execute("python", "-c", f"{imports}; {start}")
    assert code == 0, said


def ffmpeg_is_behind_what_walls_docker_grants(container: Container) -> None:
    """No privilege, no unshare: ffmpeg sees no other file, reaches the network, and `doctor` says so."""
    code, said = container.execute("reelkeeper", "doctor", "--json")
    found = {one["part"]: one for one in json.loads(said[said.index("[") :])}
    assert code == 0, [one for one in found.values() if one["state"] == "fail"]
    assert found["media tools"]["state"] == "ok"
    assert found["media sandbox"]["found"] == "this kernel grants no wall around network"


def no_secret_can_be_seen(host: Host) -> None:
    """What any user of the machine sees of a process, and what every log shows, holds no secret."""
    secrets = {host.secret(name) for name in COMPOSE["secrets"]} - {""}
    secrets |= {text.partition(":")[2] for text in secrets if text.startswith("admin:")}
    mine = psutil.Process()
    argv = [" ".join(one.cmdline()) for one in mine.children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    assert sum("reelkeeper" in line for line in argv) > 5
    logs = [(host.folder / name / "log").read_text() for name in SERVICES]
    assert not [text for text in (*argv, *logs) if any(secret in text for secret in secrets)]


def root_is_read_only(container: Container) -> None:
    """These walls do hold: a container cannot write beside what is mounted for it."""
    outside = container.home / "outside"
    code, said = container.execute("python", "-c", f"open({str(outside)!r}, 'w')")
    assert code == 1
    assert re.search(r"(Permission denied|Read-only)", said)
    assert not outside.exists()
