"""Follow the steps of docs/deploying.md for Kubernetes with the real kubectl, and fill in jobs as Prefect does.

No cluster is asked: what `kubectl apply` would send is kept, in order. Other commands must be such that kubectl knows.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from tests.docker.image import FOLDER, ROOT
from tests.programs import program

IMAGE: Final = "registry.example.com/reelkeeper:7f3a"
_KUBECTL: Final = """#!/bin/sh
keep() { cat > "sent/$(ls sent | wc -l) $1"; }
case " $* " in
  *" create "*" --dry-run=client "*) exec KUBECTL "$@" ;;
  " apply -f - ") keep ;;
  " apply -k $3 ") KUBECTL kustomize "$3" | keep ;;
  " apply -k $3 --selector $5 ") KUBECTL kustomize "$3" | keep "$5" ;;
  *" create "* | *" apply "*) echo "not known here: $*" >&2; exit 2 ;;
  *) KUBECTL --server=http://127.0.0.1:1 "$@" 2> answer || grep -q refused answer || { cat answer >&2; exit 1; } ;;
esac
"""


@dataclass(frozen=True)
class Sent:
    """The documents that one command would send to the cluster: those with the selector's label, or all."""

    selector: str
    documents: list[dict[str, Any]]

    def named(self, kind: str, name: str) -> dict[str, Any]:
        """Return the one document of this kind whose name is `name`, without the hash that kustomize appends."""
        (found,) = (
            item
            for item in self.documents
            if item["kind"] == kind and re.sub(r"-[a-z0-9]{10}$", "", item["metadata"]["name"]) == name
        )
        return found


def follow(step: str, folder: Path) -> list[Sent]:
    """Run the block of docs/deploying.md below `<!-- steps: STEP -->` in `folder`, in a copy of what is in docker/."""
    page = (ROOT / "docs" / "deploying.md").read_text()
    (block,) = re.findall(rf"<!-- steps: {re.escape(step)} -->\n\n```sh\n(.*?)```", page, re.DOTALL)
    if not (folder / "docker").exists():
        shutil.copytree(FOLDER, folder / "docker", ignore=shutil.ignore_patterns("secrets", "*.env"))
    shutil.rmtree(folder / "sent", ignore_errors=True)
    for name in ("sent", "tools"):
        (folder / name).mkdir(exist_ok=True)
    for name, script in (("kubectl", _KUBECTL.replace("KUBECTL", program("kubectl"))), ("docker", "#!/bin/true\n")):
        (folder / "tools" / name).write_text(script)
        (folder / "tools" / name).chmod(0o755)
    given = {"PATH": f"{folder / 'tools'}:{os.environ['PATH']}", "HOME": str(folder)}
    given |= dict(zip(("REGISTRY", "TAG"), IMAGE.split("/reelkeeper:"), strict=True))
    subprocess.run(["/bin/sh", "-euc", block], cwd=folder, env=given, check=True, timeout=60)
    kept = sorted((folder / "sent").iterdir(), key=lambda path: int(path.name.split()[0]))
    sent: list[Sent] = []
    for path in kept:
        _, _, selector = path.name.partition(" ")
        label, _, value = selector.partition("=")
        documents = [item for item in yaml.safe_load_all(path.read_text()) if item]
        chosen = [item for item in documents if item["metadata"].get("labels", {}).get(label) == value]
        sent.append(Sent(selector, chosen if selector else documents))
    return sent


def template(image: str = IMAGE) -> dict[str, Any]:
    """Return the template as migrate.yaml passes it to Prefect."""
    said = subprocess.run(
        [sys.executable, str(FOLDER / "kubernetes" / "template.py"), image], capture_output=True, text=True, check=True
    )
    read: dict[str, Any] = json.loads(said.stdout)
    return read


def job(
    variables: dict[str, object], run_id: str = "", url: str = "http://prefect:4200/api", auth: str = "admin:secret"
) -> dict[str, Any]:
    """Return the Kubernetes job that the worker would create for a flow run."""
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}):
        made = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(template(), variables))
        made.prepare_for_flow_run(
            FlowRun(id=UUID(run_id) if run_id else uuid4(), flow_id=uuid4(), name="tier", created=datetime.now(UTC))
        )
    manifest: dict[str, Any] = made.job_manifest
    return manifest
