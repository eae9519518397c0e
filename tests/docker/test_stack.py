"""All of compose.yaml in containers: healthy, isolated, processing real clips, and recovering from every kill."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.clips import cut
from tests.docker.cluster import job
from tests.docker.engine import inspect, podman, require_containers, run, until
from tests.docker.image import FLOWS, ONCE, OURS, SERVICES
from tests.docker.images import built
from tests.docker.stack import (
    BUCKET,
    OVER,
    Prefect,
    Stack,
    bucket,
    faults,
    kill,
    outside,
    remove_abandoned,
    stack,
)

pytestmark = pytest.mark.long("all containers start, and each is killed once")
CLIPS = ("bunny", "bikes", "city")  # three are never too many for the blast radius
RUN_SECONDS = 900.0
PASSED = """
from reelkeeper.adapters.contract import CHECKS
from reelkeeper.operations.core.workspace import open_bucket
from reelkeeper.settings import settings
from reelkeeper.store.core.deployment import record_contract
from reelkeeper.store.core.engine import open_store, transaction

with open_store(settings()) as engine, open_bucket(settings()) as bucket, transaction(engine, "test") as session:
    record_contract(session, bucket.endpoint_url, bucket.name, CHECKS, (), run_id="test")
"""  # as R2 does: SeaweedFS lists in another order, and no run changes the keys of a service whose bucket failed
IN_ORDER = ("postgres", "redis", "prefect-api", "prefect-services", "worker", "api", "watchdog")


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[Endpoint]:
    with outside(tmp_path / "s3") as at:
        yield at


def test_what_the_run_of_a_killed_suite_left_is_removed_and_nothing_else() -> None:
    require_containers()
    ended = subprocess.Popen(["true"])  # noqa: S607  wherever it is
    ended.wait()
    ours, theirs = (f"reelkeeper-{process}-0a1b2c" for process in (os.getpid(), ended.pid))
    label = "--label=com.docker.compose.project"
    for name in (ours, theirs):
        podman("network", "create", f"{label}={name}", name)
        podman("create", f"{label}={name}", f"--name={name}", "--network=none", "--rootfs", "/:O", "/bin/true")
    try:
        remove_abandoned()
        assert {ours, theirs} & {*podman("ps", "--all", "--format={{.Names}}").split()} == {ours}
        assert {ours, theirs} & {*podman("network", "ls", "--format={{.Name}}").split()} == {ours}
    finally:
        podman("rm", "--force", ours, theirs, check=False)
        podman("network", "rm", "--force", ours, theirs, check=False)


def test_everything_works_together_is_killed_and_works_again(objects: Endpoint, tmp_path: Path) -> None:
    image = built()
    with stack(objects) as made:
        made.up(worker=2, transcoder=2)
        every_container_is_closed(made)
        nobody_gets_in(made)
        with Prefect(made) as prefect:
            assert {item["name"] for item in prefect.ask("flows/filter")} == FLOWS
            prefect.hold_schedules()
            clips_are_adopted(made, prefect, tmp_path)
            a_job_of_a_cluster_runs(made, prefect, image)
            every_container_is_killed(made)
            prefect.hold_schedules()  # the deployments were made anew, too
            a_transcode_survives_its_worker(made, prefect)
        no_secret_can_be_seen(made, image)
        all_of_it_stops_and_starts(made)
        made.execute("transcoder", "reelkeeper", "doctor")  # exit code 0: media tools and the walls around them, too


def every_container_is_closed(made: Stack) -> None:
    """Read-only root, no capabilities, an unprivileged user, limited memory and processes."""
    found = made.containers()
    assert {name: len(ones) for name, ones in found.items()} == {
        name: 2 if name in {"worker", "transcoder"} else 1 for name in SERVICES
    }
    for name, ones in found.items():
        for item in ones:
            assert faults(item) == [], name
    for name in set(SERVICES) - ONCE:
        proc = made.execute(name, "sh", "-c", "cat /proc/1/status; echo >/planted", check=False)
        assert re.findall(r"Cap(?:Inh|Prm|Eff|Bnd|Amb):\s*([0-9a-f]+)", proc) == ["0" * 16] * 5, name
        assert re.search(r"NoNewPrivs:\s*1", proc), name
        uid = SERVICES[name]["user"].partition(":")[0]
        assert re.search(rf"Uid:\s*{uid}\s{uid}\s{uid}\s{uid}\b", proc), name
        assert "Read-only file system" in proc, name
    assert all(SERVICES[name]["user"] == "10001:10001" for name in OURS)


def nobody_gets_in(made: Stack) -> None:
    """With the password the UI and both APIs answer, without it only health does, and only on loopback."""
    url, auth = made.url("PREFECT_PORT"), httpx.BasicAuth(*made.secret("prefect_auth").split(":", 1))
    for path in ("health", "ready"):
        assert httpx.get(f"{url}/api/{path}", timeout=60).status_code == httpx.codes.OK
    for page in ("", "v2/", "runs/flow-run/0b0c1cd1-0000-4000-8000-000000000000"):  # the UI, unpacked under /tmp
        assert httpx.get(
            f"{url}/{page}", headers={"Accept": "text/html"}, follow_redirects=True, timeout=60
        ).is_success, page
    for path in ("admin/version", "csrf-token?client=test", "deployments/name/tier-storage/daily"):
        for credentials in (None, ("admin", "guessed")):
            assert httpx.get(f"{url}/api/{path}", auth=credentials, timeout=60).status_code == httpx.codes.UNAUTHORIZED
    assert httpx.get(f"{url}/api/admin/version", auth=auth, timeout=60).status_code == httpx.codes.OK
    refused = httpx.post(f"{url}/api/flows/filter", json={}, auth=auth, timeout=60)
    assert (refused.status_code, refused.json()["detail"]) == (403, "Missing CSRF token.")
    ours = made.url("API_PORT")
    assert httpx.get(f"{ours}/readyz", timeout=60).status_code == httpx.codes.OK
    assert httpx.get(f"{ours}/v1/metrics", timeout=60).status_code == httpx.codes.UNAUTHORIZED
    said = made.execute("api", "reelkeeper", "tokens", "create", "test", "--scope", "metrics", "--json")
    token = json.loads(said)["token"]
    assert (
        httpx.get(f"{ours}/v1/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code
        == httpx.codes.OK
    )
    beyond = [item.address for many in psutil.net_if_addrs().values() for item in many if item.family == socket.AF_INET]
    for address in set(beyond) - {"127.0.0.1"}:
        for port in made.ports.values():
            with socket.socket() as caller:
                caller.settimeout(1)
                assert caller.connect_ex((address, int(port))) != 0, f"{address}:{port} answers"


def clips_are_adopted(made: Stack, prefect: Prefect, folder: Path) -> None:
    """A run of the pool `main` adopts a service's videos; then the service's data is imported."""
    made.execute("api", "python", "-c", PASSED)
    s3 = bucket(made.objects)
    for name in CLIPS:
        clip = cut(name, folder / f"{name}.mp4", start=1, seconds=2, encoder="-preset veryfast -crf 12")
        s3.upload_file(str(clip), BUCKET, f"videos/ann/{name}.mp4")
    prefect.finish("sync-catalog", RUN_SECONDS, dry_run=False)
    ids = sorted(video["id"] for video in videos(made))
    assert len(ids) == len(CLIPS)
    today = datetime.now(UTC)
    born = (today - timedelta(days=20)).isoformat()
    days = [
        (today - timedelta(days=number)).date().isoformat() for number in range(1, 32)
    ]  # a day that is not over is not complete
    for kind, lines in {
        "users": ["id,tier,created_at", f"ann,pro,{born}"],
        "videos": ["id,user_id,created_at", *(f"{id_},ann,{born}" for id_ in ids)],
        "views": ["video_id,day,views,viewed_at", *(f"{ids[0]},{day},0," for day in days)],
    }.items():
        more = " --complete-days" if kind == "views" else ""
        script = f"cat >/tmp/{kind}.csv && reelkeeper videos import --{kind} /tmp/{kind}.csv{more}"
        made.execute("api", "sh", "-c", script, input="\n".join(lines) + "\n")


def videos(made: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(made.execute("api", "reelkeeper", "videos", "--json"))
    return found


def every_container_is_killed(made: Stack) -> None:
    """Each service is killed, and restarts by itself; one-off services are killed while active, and run again."""
    for name in IN_ORDER:
        kill(made.containers()[name][-1])
        made.wait()
    for name in sorted(ONCE):
        again = made.containers()[name][0]["Id"]
        podman("start", again)
        kill(inspect("container", again))
    made.up(worker=2, transcoder=2)


def a_transcode_survives_its_worker(made: Stack, prefect: Prefect) -> None:
    """A run of the pool `encode` dies at work with all transcoders; another does what it has not done."""
    apart = {"placement": "new_key", "payback": {"cpu_usd_per_hour": "never"}}  # clips as short as these do not pay
    begun = prefect.begin("tier-storage", {"dry_run": False, "recipe": apart})
    until(lambda: prefect.state(begun) == "RUNNING", RUN_SECONDS, "a transcoder takes the run")
    for item in made.containers()["transcoder"]:
        kill(item)
    until(lambda: prefect.state(begun) in OVER, RUN_SECONDS, "Prefect finds that the run is dead")
    made.wait()
    prefect.finish("tier-storage", RUN_SECONDS, dry_run=False, recipe=apart)
    prefect.finish("sync-catalog", RUN_SECONDS, dry_run=False)
    each_effect_happened_once(made)


def each_effect_happened_once(made: Stack) -> None:
    """Each clip was swapped once for a smaller one, its old bytes wait out their grace, and the audit is whole."""
    made.execute("api", "reelkeeper", "audit", "verify")
    found = videos(made)
    assert [(entry["state"], entry["generation"]) for entry in found] == [("live", 2)] * len(CLIPS)
    s3 = bucket(made.objects)
    stored = {
        content["Key"]: content["Size"] for content in s3.list_objects_v2(Bucket=BUCKET, Prefix="videos/")["Contents"]
    }
    for entry in found:
        original = f"videos/ann/{entry['id']}.mp4"
        assert stored[entry["key"]] == entry["size_bytes"] < stored[original]
        mine = [key for key in stored if key.startswith(f"videos/ann/{entry['id']}/")]
        shown = json.loads(made.execute("api", "reelkeeper", "videos", "show", entry["id"], "--json"))
        live = [blob["key"] for blob in shown["objects"] if blob["state"] == "live"]
        assert live == [entry["key"]]
        assert set(mine) <= {blob["key"] for blob in shown["objects"]}, "what a killed run left is known, and will go"


def a_job_of_a_cluster_runs(made: Stack, prefect: Prefect, image: str) -> None:
    """What the template gives to a cluster does a run, with no more rights, settings and secrets than the pod has."""
    run_id = prefect.begin("deliver-alerts", state="PENDING")  # which no worker takes
    manifest = job({}, run_id, "http://prefect-api:4200/api", made.secret("prefect_auth"))
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user = pod["securityContext"]
    folder = made.folder / "secrets"
    mounted = {path.name: path for path in folder.glob("reelkeeper_*") if not path.name.endswith("database_password")}
    mounted |= dict.fromkeys(("prefect_api_auth_string", "reelkeeper_prefect_api_auth"), folder / "prefect_auth")
    said = run(
        *("podman", "run", "--rm", "--timeout=280", "--read-only", "--cap-drop=ALL"),
        "--security-opt=no-new-privileges",
        *(f"--user={user['runAsUser']}:{user['runAsGroup']}", "--tmpfs=/tmp", "--volume=/var/lib/reelkeeper"),
        *(f"--network={made.project}_{name}" for name in ("prefect", "stores", "outside")),
        f"--env-file={made.folder / 'reelkeeper.env'}",
        *(f"--env={item['name']}={item['value']}" for item in container["env"]),
        *(f"--volume={path}:/run/secrets/{name}:ro" for name, path in mounted.items()),
        *(image, *container["args"]),
        within=300,
    )
    assert prefect.state(run_id) == "COMPLETED", said.stdout


def no_secret_can_be_seen(made: Stack, image: str) -> None:
    """Neither the image nor `inspect`, a log or an argument of a process holds a secret."""
    seen = [json.dumps(made.containers()), json.dumps(inspect("image", image)), podman("history", "--no-trunc", image)]
    logs = [run("podman", "logs", item["Id"]) for many in made.containers().values() for item in many]
    seen += [said for log in logs for said in (log.stdout, log.stderr)]
    seen += [" ".join(item.info["cmdline"] or ()) for item in psutil.process_iter(["cmdline"])]
    assert sum("reelkeeper" in text for text in seen) > 5
    assert not [text[:200] for text in seen if any(secret in text for secret in made.secrets())]


def all_of_it_stops_and_starts(made: Stack) -> None:
    """Stopped in order and started again, nothing is lost."""
    before = videos(made)
    made.compose("stop")
    running = [item["Name"] for many in made.containers().values() for item in many if item["State"]["Running"]]
    assert running == []
    made.compose("start")
    made.wait()
    assert videos(made) == before
    made.execute("api", "reelkeeper", "audit", "verify")
