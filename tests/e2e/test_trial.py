"""`up` on a bucket that it did not create: a trial, in which nothing changes the bucket, whoever asks."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reelkeeper.adapters.s3 import r2
from reelkeeper.operations.core.workspace import place_of
from tests.buckets import BUCKET
from tests.doubles.r2 import R2Double
from tests.e2e.installation import BIN, bare_environment, until
from tests.ports import free_port

pytestmark = pytest.mark.long("`up` starts a whole installation each time")
CHANGING = {
    "tier-storage/daily": {},
    "expire-videos/daily": {},
    "purge-retired/daily": {},
    "transcode-videos/on-demand": {"plan_id": "p"},
}


class Trial:
    """Commands on one machine, with settings for a bucket that holds a service's videos."""

    def __init__(self, folder: Path, bucket: r2.Bucket) -> None:
        self.folder, self.bucket, self.processes = folder, bucket, list[subprocess.Popen[bytes]]()
        access_key_id, secret_access_key = bucket.credentials
        self.environment = bare_environment() | {
            "REELKEEPER_S3_ENDPOINT_URL": bucket.endpoint_url,
            "REELKEEPER_S3_ACCESS_KEY_ID": access_key_id,
            "REELKEEPER_S3_SECRET_ACCESS_KEY": secret_access_key,
            "REELKEEPER_BUCKET": BUCKET,
            "REELKEEPER_PREFIX": bucket.prefix,
        }

    def up(self, *options: str) -> dict[str, Any]:
        """Start `up`, and return what it says when it is ready."""
        words = ["up", "--json", "--port", str(free_port()), "--api-port", str(free_port()), "--patience", "5"]
        said = self.folder / f"said-{len(self.processes)}"
        with said.open("wb") as out:
            command: list[str | Path] = [BIN / "reelkeeper", *words, *options]
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.processes.append(process)

        def ready() -> dict[str, Any] | None:
            assert process.poll() is None, said.read_text()
            lines = [json.loads(line) for line in said.read_text().splitlines() if line.startswith("{")]
            return next((line for line in lines if line["event"] == "ready"), None)

        found = until(ready, 400, "up is ready")
        assert found
        return found

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "reelkeeper", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(200)


@pytest.fixture
def trial(tmp_path: Path, double: R2Double, bucket: r2.Bucket, tiny_clip: Path) -> Iterator[Trial]:
    for number in range(3):
        bucket.put_once(f"{bucket.prefix}ann/v{number}.mp4", tiny_clip, "video/mp4")
    double.requests.clear()
    started = Trial(tmp_path, bucket)
    yield started
    started.end()


def ask(method: str, url: str, **how: Any) -> Any:  # noqa: ANN401  whatever the server has
    """Ask Prefect's server, which answers 503 while it is busy."""

    def answered() -> httpx.Response | None:
        answer = httpx.request(method, url, timeout=60, **how)
        return answer if answer.status_code != 503 else None

    found = until(answered, 120, url)
    assert found is not None
    assert found.is_success, found.text
    return found.json()


def test_nothing_changes_the_bucket_until_it_goes_live(trial: Trial, double: R2Double, bucket: r2.Bucket) -> None:
    ready = trial.up()
    assert ready["looks_only"]
    api = f"{ready['ui_url']}/api"
    asked = {}
    for name, parameters in CHANGING.items():
        found = ask("GET", f"{api}/deployments/name/{name}")
        body = {"parameters": parameters | {"dry_run": False}}
        asked[name] = ask("POST", f"{api}/deployments/{found['id']}/create_flow_run", json=body)["id"]

    def are_refused() -> bool:
        states = [ask("GET", f"{api}/flow_runs/{run}")["state"] for run in asked.values()]
        return all((state["type"], state["name"]) == ("FAILED", "Refused") for state in states)

    until(are_refused, 120, f"{asked} are refused")
    first = {"flows": {"name": {"any_": ["sync-catalog"]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    until(lambda: ask("POST", f"{api}/flow_runs/filter", json=first), 200, "the first sync is done")
    adopted = trial.command("videos", "--json")
    assert "v2" in adopted.stdout, adopted.stderr
    token = trial.command("tokens", "create", "a service", "--scope", "jobs", "--scope", "holds", "--json").stdout
    headers = {"Authorization": f"Bearer {json.loads(token)['token']}", "Idempotency-Key": "k"}
    refused = httpx.post(f"{ready['api_url']}/v1/jobs", headers=headers, json={}, timeout=60)
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:reelkeeper:trial")
    for words in (["run", "purge_retired", "--apply"], ["run", "tier_storage", "--apply"]):
        trial.command(*words)  # by somebody with a shell here
    assert bucket.head(bucket.identity_key) is None
    assert not [request for request in double.requests if request.writes]
    trial.end()
    trial.processes.clear()
    assert trial.command("up", "--live").returncode == 1  # nobody answers
    assert bucket.head(bucket.identity_key) is None
    assert not trial.up("--live", "--yes")["looks_only"]
    assert bucket.head(bucket.identity_key) is not None
    trial.end()
    trial.processes.clear()
    trial.environment["REELKEEPER_S3_ENDPOINT_URL"] = bucket.endpoint_url.replace("127.0.0.1", "localhost")
    double.requests.clear()
    moved = trial.up()  # the same bucket, at an address that nobody has confirmed
    assert (moved["looks_only"], moved["live_at"]) == (True, place_of(bucket))
    for words in (["users", "erase", "ann", "--yes"], ["run", "tier_storage", "--apply"]):
        assert trial.command(*words).returncode == 9
    headers["Idempotency-Key"] = "k2"
    refused = httpx.post(f"{moved['api_url']}/v1/jobs", headers=headers, json={}, timeout=60)
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:reelkeeper:trial")
    assert json.loads(trial.command("status", "--json").stdout)["on_trial"]
    assert not [request for request in double.requests if request.writes]
