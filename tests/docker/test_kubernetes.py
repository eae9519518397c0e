"""Kubernetes: the documented steps, what they send to a cluster, and the jobs as Prefect fills them in."""

import base64
import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from reelkeeper.cli.commands.api import _PATIENCE_SECONDS
from reelkeeper.settings import Settings, settings
from tests.docker.cluster import IMAGE, Sent, follow, job, template
from tests.docker.image import FOLDER, SERVICES, image_environment

# Prefect 3.9.1 refuses a template without them there; Kubernetes drops fields that it does not know.
OF_PREFECT = ("completions", "parallelism")
WRITTEN = {
    "PREFECT_API_URL": "https://prefect.example.com/api",
    "REELKEEPER_API_URL": "http://reelkeeper-api.reelkeeper:8787",
    "REELKEEPER_R2_ACCOUNT_ID": "0123456789abcdef0123456789abcdef",
    "REELKEEPER_BUCKET": "clips",
    "REELKEEPER_BACKUPS": "s3://clips-backups/",
}
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def test_every_placeholder_is_a_variable_and_every_variable_is_used() -> None:
    made = template()
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(made["job_configuration"])))
    assert used == set(made["variables"]["properties"])
    assert used >= set(KubernetesWorkerJobConfiguration.model_fields) - {"job_manifest", "cluster_config"}


def test_the_variables_are_a_schema_that_its_defaults_satisfy() -> None:
    variables = template()["variables"]
    jsonschema.Draft202012Validator.check_schema(variables)
    defaults = {name: prop["default"] for name, prop in variables["properties"].items()}
    jsonschema.validate(defaults, variables)
    assert all(prop["description"] and prop["title"] for prop in variables["properties"].values())


def accepted(manifest: dict[str, Any], version: str = VERSIONS[-1]) -> None:
    """Hold a manifest against Kubernetes' own schema, which knows no other fields than its own."""
    manifest = copy.deepcopy(manifest)
    if manifest["kind"] == "Job":
        for name in OF_PREFECT:
            manifest["spec"]["template"]["spec"].pop(name, None)
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("variables", [{}, {"cpu_limit": "8", "scratch_size": "50Gi", "finished_job_ttl": 0}], ids=str)
def test_kubernetes_accepts_the_job(variables: dict[str, object], version: str) -> None:
    accepted(job(variables), version)


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        (lambda pod: pod["containers"][0]["resources"].update(limit={}), "limit"),
        (lambda pod: pod["volumes"][0].pop("name"), "name"),
        (lambda pod: pod.update(terminationGracePeriodSeconds="60"), "60"),
    ],
    ids=["misspelt", "missing", "of another type"],
)
def test_a_field_that_is_wrong_is_found(planted: Callable[[dict[str, Any]], object], found: str) -> None:
    made = job({})
    planted(made["spec"]["template"]["spec"])
    with pytest.raises(kubernetes_validate.ValidationError, match=found):
        accepted(made)


def test_a_run_takes_what_the_transcoder_of_compose_takes() -> None:
    (container,) = job({})["spec"]["template"]["spec"]["containers"]
    limits, of_compose = container["resources"]["limits"], SERVICES["transcoder"]["deploy"]["resources"]["limits"]
    assert (limits["memory"], limits["cpu"]) == (of_compose["memory"] + "i", of_compose["cpus"])


def test_a_run_gets_its_heartbeat_and_keeps_what_the_pool_sets() -> None:
    made = job({"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}})
    environment = {item["name"]: item["value"] for item in made["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert environment["PREFECT_API_URL"] == "http://prefect:4200/api"
    assert made["spec"]["ttlSecondsAfterFinished"] == 3600


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Sent]]:
    """Follow docs/deploying.md after secrets.sh, with all settings that it asks for; return what each step sends."""
    folder = tmp_path_factory.mktemp("kubernetes")
    shutil.copytree(FOLDER, folder / "docker", ignore=shutil.ignore_patterns("secrets", "*.env"))
    subprocess.run(["/bin/sh", str(folder / "docker" / "secrets.sh")], check=True, capture_output=True)
    for name in ("s3_access_key_id", "s3_secret_access_key"):
        (folder / "docker" / "secrets" / f"reelkeeper_{name}").write_text("given")
    (folder / "docker" / "reelkeeper.env").write_text("".join(f"{key}={value}\n" for key, value in WRITTEN.items()))
    return {name: follow(f"kubernetes {name}", folder) for name in ("image", "settings", "rollout")}


def pods(steps: dict[str, list[Sent]]) -> dict[str, dict[str, Any]]:
    """Return all pods by name of what makes them: of the rollout, and of a run of the pool `encode`."""
    of_rollout = [item for item in steps["rollout"][-1].documents if item["kind"] in {"Deployment", "Job"}]
    named = {item["metadata"]["name"].removeprefix("reelkeeper-"): item for item in of_rollout}
    return {name: made["spec"]["template"]["spec"] for name, made in (named | {"run": job({})}).items()}


def test_the_documented_steps_migrate_before_anything_is_rolled_out(steps: dict[str, list[Sent]]) -> None:
    namespace, secret, config = steps["settings"]
    assert [one["kind"] for sent in (namespace, secret, config) for one in sent.documents] == [
        *("Namespace", "Secret", "ConfigMap")
    ]
    before, after = steps["rollout"]
    assert sorted(item["kind"] for item in before.documents) == ["ConfigMap", "Job"]
    assert before.named("Job", "reelkeeper-migrate") == after.named("Job", "reelkeeper-migrate")
    assert {item["metadata"]["name"] for item in after.documents if item["kind"] == "Deployment"} == {
        *("reelkeeper-worker", "reelkeeper-transcoder", "reelkeeper-api", "reelkeeper-watchdog")
    }
    assert {item["metadata"]["namespace"] for item in after.documents} == {"reelkeeper"}


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_all_that_is_sent(steps: dict[str, list[Sent]], version: str) -> None:
    for sent in (*steps["settings"], *steps["rollout"]):
        for document in sent.documents:
            accepted(document, version)


def test_every_pod_has_the_image_that_was_pushed(steps: dict[str, list[Sent]]) -> None:
    made = pods(steps)
    assert {pod["containers"][0]["image"] for name, pod in made.items()} == {IMAGE}
    (given,) = (item["value"] for item in made["migrate"]["containers"][0]["env"] if item["name"] == "IMAGE")
    assert template(given)["variables"]["properties"]["image"]["default"] == IMAGE


def test_every_secret_and_setting_reaches_every_pod(steps: dict[str, list[Sent]]) -> None:
    _, secret, config = (sent.documents[0] for sent in steps["settings"])
    assert config["data"] == WRITTEN
    kept = {
        f"reelkeeper_{name}" for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
    }
    assert set(secret["data"]) >= kept | {"prefect_api_auth_string"}
    assert not {name for name in secret["data"] if "postgres" in name or name == "prefect_database_password"}
    for pod in pods(steps).values():
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
        (mounted,) = (volume["secret"] for volume in pod["volumes"] if volume["name"] == "secrets")
        assert mounted == {"secretName": secret["metadata"]["name"], "defaultMode": 0o440}


@pytest.mark.parametrize(
    ("added", "secrets"),
    [
        ({"EVENT_QUEUE_ID": "q", "CLOUDFLARE_ACCOUNT_ID": "a"}, ["event_queue_token"]),
        ({"PUBLIC_URL": "https://clips.example.com", "CACHE_ZONE_ID": "z"}, ["cache_purge_token"]),
        (
            {"SLACK_CHANNEL": "C0123456789", "SLACK_OPERATORS": "U0123456789"},
            ["slack_bot_token", "slack_signing_secret"],
        ),
        ({"GENERATOR": "fal"}, ["fal_token"]),
    ],
    ids=["events", "cache", "operators", "vendor"],
)
def test_a_pod_starts_with_each_feature_that_needs_a_secret(
    steps: dict[str, list[Sent]],
    added: dict[str, str],
    secrets: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, secret, config = (sent.documents[0] for sent in steps["settings"])
    for name, value in secret["data"].items():
        written = "given" if name.removeprefix("reelkeeper_") in secrets else base64.b64decode(value or "").decode()
        (tmp_path / name).write_text(written)
    for name, value in (config["data"] | {f"REELKEEPER_{name}": value for name, value in added.items()}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REELKEEPER_SECRETS_DIR", str(tmp_path))
    settings.cache_clear()
    read = settings()
    settings.cache_clear()
    assert all(getattr(read, name).get_secret_value() == "given" for name in secrets)


def test_every_pod_may_do_as_little_as_a_container_of_compose(steps: dict[str, list[Sent]]) -> None:
    for name, pod in pods(steps).items():
        (container,) = pod["containers"]
        assert {key: pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "runAsNonRoot")} == {
            **dict(zip(("runAsUser", "runAsGroup"), map(int, SERVICES["worker"]["user"].split(":")), strict=True)),
            "runAsNonRoot": True,
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert (pod.get("automountServiceAccountToken") is False) is (name != "transcoder")
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]} - {"/etc/reelkeeper"}
        assert mounts == {
            image_environment()[key] for key in ("HOME", "REELKEEPER_STATE_DIR", "REELKEEPER_SECRETS_DIR")
        }


@pytest.mark.parametrize("name", ["worker", "api", "watchdog"])
def test_a_deployment_runs_and_takes_what_its_container_of_compose_does(
    steps: dict[str, list[Sent]], name: str
) -> None:
    pod, service = pods(steps)[name], SERVICES[name]
    (container,) = pod["containers"]
    limits = service["deploy"]["resources"]["limits"]
    assert container["args"] == service["command"]
    assert (container["resources"]["limits"]["cpu"], container["resources"]["limits"]["memory"]) == (
        *(limits["cpus"], limits["memory"] + "i"),
    )


def test_the_api_serves_on_until_no_request_is_sent_to_it(steps: dict[str, list[Sent]]) -> None:
    pod = pods(steps)["api"]
    word, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert (word, int(seconds) >= 5) == ("sleep", True)
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + _PATIENCE_SECONDS + 5


def test_the_migration_does_what_that_of_compose_does_and_makes_the_pool_before(steps: dict[str, list[Sent]]) -> None:
    (container,) = pods(steps)["migrate"]["containers"]
    words, (*_, of_compose) = container["args"][-1].split("\n"), SERVICES["bootstrap"]["command"]
    added = [at for at, line in enumerate(words) if "transcode.json" in line or "work-pool" in line]
    assert [line for at, line in enumerate(words) if at not in added] == [*of_compose.split("; "), ""]
    (made,) = (at for at in added if "work-pool create encode" in words[at])
    assert made < words.index(of_compose.split("; ")[1])  # which leaves an existing pool as it is


def test_nothing_is_reached_but_the_api_and_no_metadata_service_is(steps: dict[str, list[Sent]]) -> None:
    rollout = steps["rollout"][-1]
    closed, opened = (rollout.named("NetworkPolicy", name)["spec"] for name in ("reelkeeper", "reelkeeper-api"))
    assert closed["podSelector"] == {}
    assert (set(closed["policyTypes"]), "ingress" in closed) == ({"Ingress", "Egress"}, False)
    blocks = [to["ipBlock"] for rule in closed["egress"] for to in rule.get("to", [])]
    for address in ("169.254.169.254", "fd00:ec2::254"):
        inside = [
            block
            for block in blocks
            if ip_address(address) in ip_network(block["cidr"])
            and not any(ip_address(address) in ip_network(part) for part in block["except"])
        ]
        assert not inside
    (service,) = rollout.named("Service", "reelkeeper-api")["spec"]["ports"]
    assert opened["ingress"] == [{"ports": [{"port": service["port"], "protocol": "TCP"}]}]


def test_no_autoscaler_ends_an_encode_and_no_drain_the_api(steps: dict[str, list[Sent]]) -> None:
    noted = job({})["spec"]["template"]["metadata"]["annotations"]
    assert noted["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert noted["karpenter.sh/do-not-disrupt"] == "true"
    rollout = steps["rollout"][-1]
    replicas = rollout.named("Deployment", "reelkeeper-api")["spec"]["replicas"]
    assert rollout.named("PodDisruptionBudget", "reelkeeper-api")["spec"]["maxUnavailable"] < replicas


def test_a_run_takes_the_pools_nodes_pull_secrets_and_deadline() -> None:
    chosen = {
        "node_selector": {"pool": "encode"},
        "tolerations": [{"key": "encode", "operator": "Exists"}],
        "image_pull_secrets": [{"name": "registry"}],
        "deadline_seconds": 3600,
    }
    made = job(chosen)["spec"]
    pod = made["template"]["spec"]
    assert (pod["nodeSelector"], pod["tolerations"], pod["imagePullSecrets"]) == (
        *(chosen["node_selector"], chosen["tolerations"], chosen["image_pull_secrets"]),
    )
    assert made["activeDeadlineSeconds"] == 3600


def test_without_a_bucket_for_backups_no_worker_starts(steps: dict[str, list[Sent]]) -> None:
    (container,) = pods(steps)["worker"]["containers"]
    (asked,) = (
        item["valueFrom"]["configMapKeyRef"] for item in container["env"] if item["name"] == "REELKEEPER_BACKUPS"
    )
    assert asked == {"name": "reelkeeper", "key": "REELKEEPER_BACKUPS"}


def test_prefects_password_comes_to_the_jobs_from_the_secret(
    steps: dict[str, list[Sent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_kubernetes.settings import KubernetesSettings  # noqa: PLC0415  it reads the environment when it is made

    for item in pods(steps)["transcoder"]["containers"][0]["env"]:
        monkeypatch.setenv(item["name"], item["value"])
    read = KubernetesSettings()
    assert read.worker.api_auth_string_secret_name == steps["settings"][1].documents[0]["metadata"]["name"]
    assert read.worker.api_auth_string_secret_key in steps["settings"][1].documents[0]["data"]
    assert read.observer.namespaces == {"reelkeeper"}
