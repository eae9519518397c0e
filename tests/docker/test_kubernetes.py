"""The Kubernetes work pool: its template as Prefect fills it in, and the job as Kubernetes accepts it."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from tests.docker.cluster import job, template
from tests.docker.image import FOLDER, SERVICES, image_environment

# Prefect 3.9.1 refuses a template without them there; Kubernetes drops fields that it does not know.
OF_PREFECT = ("completions", "parallelism")
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
            del manifest["spec"]["template"]["spec"][name]
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


def test_the_pod_may_do_as_little_as_a_container_of_compose() -> None:
    pod = job({})["spec"]["template"]["spec"]
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
    mounts = {volume_mount["mountPath"] for volume_mount in container["volumeMounts"]}
    assert mounts == {image_environment()[name] for name in ("HOME", "REELKEEPER_STATE_DIR", "REELKEEPER_SECRETS_DIR")}


def test_a_run_gets_its_heartbeat_and_keeps_what_the_pool_sets() -> None:
    made = job({"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}})
    environment = {item["name"]: item["value"] for item in made["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert environment["PREFECT_API_URL"] == "http://prefect:4200/api"
    assert made["spec"]["ttlSecondsAfterFinished"] == 3600


def test_every_secret_that_a_run_needs_is_mounted() -> None:
    volumes = {volume["name"]: volume for volume in job({})["spec"]["template"]["spec"]["volumes"]}
    mounted = {item["key"] for item in volumes["secrets"]["secret"]["items"]}
    made = {f"reelkeeper_{name}" for name in re.findall(r"\w+", " ".join(_names_in_secrets_sh()))}
    assert mounted <= made
    assert mounted >= {f"reelkeeper_{name}" for name in ("database_url", "s3_access_key_id", "s3_secret_access_key")}


def _names_in_secrets_sh() -> list[str]:
    script = (FOLDER / "secrets.sh").read_text().replace("\\\n", "")
    return [*re.findall(r"for name in ([\w ]+);", script), *re.findall(r"keep reelkeeper_(\w+) ", script)]


def test_kubernetes_accepts_the_worker() -> None:
    documents = list(yaml.safe_load_all((FOLDER / "kubernetes" / "worker.yaml").read_text()))
    assert [item["kind"] for item in documents] == ["ServiceAccount", "Role", "RoleBinding", "Deployment"]
    for document in documents:
        accepted(document)
        assert document["metadata"]["namespace"] == "reelkeeper"
    pod = documents[-1]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == SERVICES["worker"]["image"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_prefects_password_comes_to_the_jobs_from_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect_kubernetes.settings import KubernetesSettings  # noqa: PLC0415  it reads the environment when it is made

    *_, deployment = yaml.safe_load_all((FOLDER / "kubernetes" / "worker.yaml").read_text())
    for item in deployment["spec"]["template"]["spec"]["containers"][0]["env"]:
        if "value" in item:
            monkeypatch.setenv(item["name"], item["value"])
    read = KubernetesSettings()
    assert (read.worker.api_auth_string_secret_name, read.worker.api_auth_string_secret_key) == (
        "reelkeeper",
        "prefect_auth",
    )
    assert read.observer.namespaces == {"reelkeeper"}
