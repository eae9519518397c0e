"""Fill in the template of docker/kubernetes as Prefect's worker does."""

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from tests.docker.image import FOLDER


def template() -> dict[str, Any]:
    """Return the template as the command in its comments passes it to Prefect."""
    said = subprocess.run(
        [sys.executable, str(FOLDER / "kubernetes" / "template.py")], capture_output=True, text=True, check=True
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
