"""Read Dockerfile and compose.yaml as Docker does."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docker"
VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DOCKERFILE: Final = (FOLDER / "Dockerfile").read_text()
_WRITTEN: Final = (FOLDER / "compose.yaml").read_text()
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", _WRITTEN))  # no variable is set
PYTHON_IMAGE: Final = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", DOCKERFILE, re.MULTILINE)[0]
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
ONCE: Final = {name for name, service in SERVICES.items() if service["restart"] == "no"}
FLOWS: Final = {path.stem.replace("_", "-") for path in (ROOT / "flows").glob("[a-z]*.py")}
OURS: Final = {name for name, service in SERVICES.items() if service["image"].startswith("reelkeeper:")}


def instructions(stage: int = -1) -> list[tuple[str, str]]:
    """Return the instructions of a stage of the Dockerfile, each with its argument on one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    stages = re.split(r"^(?=FROM )", text, flags=re.MULTILINE)
    lines = [line for line in stages[stage].splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def image_environment() -> dict[str, str]:
    """Return the variables that ENV sets in the shipped image."""
    pairs = [pair for word, rest in instructions() if word == "ENV" for pair in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def secrets_of(service: str) -> dict[str, str]:
    """Return the secrets of a service: file name under /run/secrets, and name in compose.yaml."""
    granted = SERVICES[service].get("secrets", [])
    return {
        item["target"]: item["source"] if isinstance(item, dict) else item for item in granted if isinstance(item, dict)
    } | {item: item for item in granted if isinstance(item, str)}
