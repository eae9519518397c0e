"""The deployments of prefect.yaml as Prefect's `serve` takes them."""

from pathlib import Path
from typing import Any

import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments import runner
from prefect.flows import Flow, load_flow_from_entrypoint

from deployments.prefect_internals import schedule

_AS_WRITTEN = ("name", "description", "tags", "parameters", "enforce_parameter_schema")


def deployments(path: Path) -> list[runner.RunnerDeployment]:
    """Read them: names, schedules, parameters and limits; pools and pull steps are for workers."""
    return [_deployment(deployment) for deployment in yaml.safe_load(path.read_text())["deployments"]]


def _deployment(entry: dict[str, Any]) -> runner.RunnerDeployment:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
    return flow.to_deployment(  # type: ignore[return-value]  # a coroutine only where one is running
        **{name: entry[name] for name in _AS_WRITTEN},
        schedules=[DeploymentScheduleCreate(**schedule(written)) for written in entry.get("schedules", [])],
        concurrency_limit=ConcurrencyLimitConfig(**entry["concurrency_limit"]),
        entrypoint_type=runner.EntrypointType.MODULE_PATH,  # type: ignore[attr-defined]  # Prefect's own place of it
    )
