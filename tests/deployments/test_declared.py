"""`deployments.serve` serves the deployments of prefect.yaml."""

from pathlib import Path
from typing import Any

import yaml
from prefect.client.schemas.schedules import CronSchedule

from deployments.deploy import declared_deployments

WRITTEN = Path(__file__).parent.parent.parent / "prefect.yaml"


def test_every_deployment_is_served_with_its_schedules_parameters_and_limit() -> None:
    said: dict[str, dict[str, Any]] = {
        deployment["entrypoint"]: deployment for deployment in yaml.safe_load(WRITTEN.read_text())["deployments"]
    }
    served = {str(deployment.entrypoint): deployment for deployment in declared_deployments(WRITTEN)}
    assert served.keys() == said.keys()
    for entrypoint, deployment in served.items():
        wanted = said[entrypoint]
        assert (deployment.name, deployment.parameters) == (wanted["name"], wanted["parameters"])
        assert deployment.description == wanted["description"]
        assert deployment.tags == wanted["tags"]
        assert deployment.concurrency_limit == wanted["concurrency_limit"]["limit"]
        assert deployment.concurrency_options
        assert deployment.concurrency_options.collision_strategy == wanted["concurrency_limit"]["collision_strategy"]
        schedules = [each.schedule for each in deployment.schedules or []]
        assert [(each.cron, each.timezone) for each in schedules if isinstance(each, CronSchedule)] == [
            (each["cron"], each["timezone"]) for each in wanted.get("schedules", [])
        ]
