"""compose.yaml: requirements for every container."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from deployments.orchestration import SERVER
from reelkeeper.settings import Settings
from tests.docker.image import COMPOSE, FOLDER, ONCE, OURS, ROOT, SERVICES, image_environment, secrets_of
from tests.programs import program

SECRETS = COMPOSE["secrets"]


def test_every_service_is_present() -> None:
    assert set(SERVICES) == {
        *("postgres", "redis", "prefect-migrate", "prefect-api", "prefect-services"),
        *("bootstrap", "worker", "transcoder", "api", "watchdog"),
    }
    assert {"prefect-migrate", "bootstrap"} == ONCE


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_nothing_that_it_need_not(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "container_name"} & set(service)
    assert "docker.sock" not in str(service)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_resource_limits(name: str) -> None:
    service = SERVICES[name]
    assert {"cpus", "memory", "pids"} == set(service["deploy"]["resources"]["limits"])
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["init"] is True


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_one_exact_version(name: str) -> None:
    assert re.fullmatch(
        r"(reelkeeper|postgres|redis|\S+):\d+\.\d+(\.\d+)?(\.dev\d+|-[a-z]+)?(@sha256:\S+)?", SERVICES[name]["image"]
    )


def test_our_image_has_our_version() -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {SERVICES[name]["image"] for name in OURS} == {f"reelkeeper:{ours}"}


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONCE))
def test_every_long_running_service_has_a_healthcheck_and_is_restarted(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_no_service_starts_before_its_dependencies() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how == {"condition": wanted}, f"{name} waits for {other}"


def test_only_the_two_apis_are_published_and_on_loopback_alone() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "prefect-api": ["127.0.0.1:4200:4200"],
        "api": ["127.0.0.1:8787:8787"],
    }
    assert {name for name, network in COMPOSE["networks"].items() if not network.get("internal")} == {"outside"}
    assert {name for name, service in SERVICES.items() if "messages" in service["networks"]} == {
        *("redis", "prefect-migrate", "prefect-api", "prefect-services")
    }


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_in_an_environment(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    bare = [key for key in environment if re.search(r"PASSWORD|SECRET|TOKEN|KEY|AUTH|DATABASE_URL|WEBHOOK", key)]
    assert {*bare} <= {"POSTGRES_PASSWORD_FILE"}
    assert not [value for value in environment.values() if re.search(r"//[^/]*:[^/]*@", str(value))]


def test_every_secret_of_ours_can_be_set() -> None:
    wanted = {
        f"reelkeeper_{name}" for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
    }
    for name in OURS - {"prefect-migrate", "prefect-api", "prefect-services"}:
        assert {*secrets_of(name)} == wanted | {"prefect_api_auth_string"}
    assert {name: entry["file"] for name, entry in SECRETS.items()} == {name: f"secrets/{name}" for name in SECRETS}


def test_each_container_gets_only_the_secrets_that_it_needs() -> None:
    granted = {name: set(secrets_of(name).values()) for name in SERVICES}
    assert granted["redis"] == set()
    assert {name for name in granted if "postgres_password" in granted[name]} == {"postgres"}
    for name in ("prefect-migrate", "prefect-api", "prefect-services"):
        assert granted[name] == {"prefect_database_password", "prefect_auth"}


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONCE))
def test_podman_asks_a_healthcheck_as_docker_does(name: str) -> None:
    kind, *words = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD-SHELL" or not [word for word in words if " " in word], "podman splits words at spaces"


def test_prefects_retention_is_the_same_wherever_we_start_it() -> None:
    for name in ("prefect-api", "prefect-services"):
        assert SERVER.items() <= (image_environment() | SERVICES[name]["environment"]).items()


def test_a_worker_is_given_the_time_that_it_takes_to_drain() -> None:
    for name, seconds in {"worker": 150, "transcoder": 630}.items():
        command = SERVICES[name]["command"]
        minutes, rest = re.fullmatch(r"(\d+)m(\d+)s", SERVICES[name]["stop_grace_period"]).groups()  # type: ignore[union-attr]  # it is written so
        assert int(minutes) * 60 + int(rest) == seconds
        assert int(command[command.index("--patience") + 1]) + 30 <= seconds


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    made = prepared(tmp_path)
    first = {path.name: path.read_text() for path in made.iterdir()}
    assert {*first} == {*SECRETS}
    assert made.stat().st_mode & 0o777 == 0o700
    assert re.fullmatch(r"admin:[0-9a-f]{48}", first["prefect_auth"])
    assert first["reelkeeper_database_password"] in first["reelkeeper_database_url"]
    passwords = {first[f"{name}_password"] for name in ("postgres", "prefect_database", "reelkeeper_database")}
    assert len(passwords) == 3
    (made / "reelkeeper_slack_bot_token").write_text("mine")
    prepared(tmp_path)
    assert {path.name: path.read_text() for path in made.iterdir()} == first | {"reelkeeper_slack_bot_token": "mine"}


def test_a_compose_client_accepts_the_file(tmp_path: Path) -> None:
    client = program("docker-compose")
    made = prepared(tmp_path)
    shutil.copy(FOLDER / "compose.yaml", tmp_path)
    (tmp_path / "reelkeeper.env").write_text("REELKEEPER_BUCKET=films\n")
    said = subprocess.run(
        [client, "--file", str(tmp_path / "compose.yaml"), "config"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    rendered = yaml.safe_load(said.stdout)
    assert set(rendered["services"]) == set(SERVICES)
    assert rendered["services"]["worker"]["environment"]["REELKEEPER_BUCKET"] == "films"
    secrets = [text for path in made.iterdir() if (text := path.read_text().strip())]
    assert len(secrets) >= 5
    assert not [text for text in secrets if text in said.stdout]


def prepared(folder: Path) -> Path:
    """Run a copy of secrets.sh in a folder, and give the folder that it made."""
    shutil.copy(FOLDER / "secrets.sh", folder)
    subprocess.run(["/bin/sh", str(folder / "secrets.sh")], check=True, capture_output=True)
    return folder / "secrets"
