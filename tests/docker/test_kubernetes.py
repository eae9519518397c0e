"""The work pool of a cluster: its template as Prefect fills it, and the job as Kubernetes takes it."""

import asyncio
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from tests.docker.image import FOLDER, SERVICES, image_environment
from tests.docker.manifests import faults

# Prefect 3.9.1 refuses a template without them there; Kubernetes drops fields that it does not know.
OF_PREFECT = {".spec.template.spec.completions: not known", ".spec.template.spec.parallelism: not known"}


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """What the command in the comments gives to Prefect."""
    said = subprocess.run(
        [sys.executable, str(FOLDER / "kubernetes" / "template.py")], capture_output=True, text=True, check=True
    )
    read: dict[str, Any] = json.loads(said.stdout)
    return read


def job(template: dict[str, Any], **variables: object) -> dict[str, Any]:
    """Fill the template in as Prefect's worker does for a flow run."""
    with temporary_settings({PREFECT_API_URL: "http://prefect:4200/api", PREFECT_API_AUTH_STRING: "admin:secret"}):
        made = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(template, variables))
        made.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="tier", created=datetime.now(UTC)))
    manifest: dict[str, Any] = made.job_manifest
    return manifest


def test_every_placeholder_is_a_variable_and_every_variable_is_used(template: dict[str, Any]) -> None:
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    assert used >= set(KubernetesWorkerJobConfiguration.model_fields) - {"job_manifest", "cluster_config"}


def test_the_variables_are_a_schema_that_its_defaults_satisfy(template: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(template["variables"])
    defaults = {name: one["default"] for name, one in template["variables"]["properties"].items()}
    jsonschema.validate(defaults, template["variables"])
    assert all(one["description"] and one["title"] for one in template["variables"]["properties"].values())


@pytest.mark.parametrize("variables", [{}, {"cpu_limit": "8", "scratch_size": "50Gi", "finished_job_ttl": 0}], ids=str)
def test_kubernetes_takes_the_job(template: dict[str, Any], variables: dict[str, object]) -> None:
    assert set(faults("V1Job", job(template, **variables))) == OF_PREFECT


def test_a_field_that_is_misspelt_or_missing_is_found(template: dict[str, Any]) -> None:
    made = job(template)
    pod = made["spec"]["template"]["spec"]
    pod["containers"][0]["resources"]["limit"] = {}
    pod["volumes"][0].pop("name")
    pod["terminationGracePeriodSeconds"] = "60"
    found = set(faults("V1Job", made)) - OF_PREFECT
    assert len(found) == 3
    assert ".spec.template.spec.containers[0].resources.limit: not known" in found


def test_the_pod_may_do_as_little_as_a_container_of_compose(template: dict[str, Any]) -> None:
    pod = job(template)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (
        f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
        == SERVICES["transcoder"]["user"]
    )
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    limits, memory = container["resources"]["limits"], SERVICES["transcoder"]["deploy"]["resources"]["limits"]["memory"]
    assert (limits["memory"], limits["cpu"]) == (
        memory + "i",
        SERVICES["transcoder"]["deploy"]["resources"]["limits"]["cpus"],
    )
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    assert mounts == {image_environment()[name] for name in ("HOME", "REELKEEPER_STATE_DIR", "REELKEEPER_SECRETS_DIR")}


def test_a_run_gets_its_heartbeat_and_keeps_what_the_pool_sets(template: dict[str, Any]) -> None:
    made = job(template, env={"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"})
    environment = {one["name"]: one["value"] for one in made["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert environment["PREFECT_API_URL"] == "http://prefect:4200/api"
    assert made["spec"]["ttlSecondsAfterFinished"] == 3600


def test_every_secret_that_a_run_needs_is_mounted(template: dict[str, Any]) -> None:
    volumes = {one["name"]: one for one in job(template)["spec"]["template"]["spec"]["volumes"]}
    mounted = {one["key"] for one in volumes["secrets"]["secret"]["items"]}
    made = {f"reelkeeper_{name}" for name in re.findall(r"\w+", " ".join(_names_in_secrets_sh()))}
    assert mounted <= made
    assert mounted >= {f"reelkeeper_{name}" for name in ("database_url", "s3_access_key_id", "s3_secret_access_key")}


def _names_in_secrets_sh() -> list[str]:
    script = (FOLDER / "secrets.sh").read_text().replace("\\\n", "")
    return [*re.findall(r"for name in ([\w ]+);", script), *re.findall(r"keep reelkeeper_(\w+) ", script)]


def test_kubernetes_takes_the_worker() -> None:
    documents = list(yaml.safe_load_all((FOLDER / "kubernetes" / "worker.yaml").read_text()))
    kinds = {"ServiceAccount": "V1ServiceAccount", "Role": "V1Role", "RoleBinding": "V1RoleBinding"}
    assert [one["kind"] for one in documents] == [*kinds, "Deployment"]
    for document in documents:
        found = set(faults((kinds | {"Deployment": "V1Deployment"})[document["kind"]], document))
        assert found == set()
        assert document["metadata"]["namespace"] == "reelkeeper"
    pod = documents[-1]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == SERVICES["worker"]["image"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_prefects_password_comes_to_the_jobs_from_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect_kubernetes.settings import KubernetesSettings  # noqa: PLC0415  it reads the environment when it is made

    *_, deployment = yaml.safe_load_all((FOLDER / "kubernetes" / "worker.yaml").read_text())
    for one in deployment["spec"]["template"]["spec"]["containers"][0]["env"]:
        if "value" in one:
            monkeypatch.setenv(one["name"], one["value"])
    read = KubernetesSettings()
    assert (read.worker.api_auth_string_secret_name, read.worker.api_auth_string_secret_key) == (
        "reelkeeper",
        "prefect_auth",
    )
    assert read.observer.namespaces == {"reelkeeper"}
