"""What `deployments.serve` serves is what prefect.yaml says."""

from pathlib import Path
from typing import Any

import yaml
from prefect.client.schemas.schedules import CronSchedule

from deployments.declared import deployments

WRITTEN = Path(__file__).parent.parent.parent / "prefect.yaml"


def test_every_deployment_is_served_with_its_schedules_parameters_and_limit() -> None:
    said: dict[str, dict[str, Any]] = {
        one["entrypoint"]: one for one in yaml.safe_load(WRITTEN.read_text())["deployments"]
    }
    served = {str(one.entrypoint): one for one in deployments(WRITTEN)}
    assert served.keys() == said.keys()
    for entrypoint, one in served.items():
        wanted = said[entrypoint]
        assert (one.name, one.parameters) == (wanted["name"], wanted["parameters"])
        assert one.description == wanted["description"]
        assert one.tags == wanted["tags"]
        assert one.concurrency_limit == wanted["concurrency_limit"]["limit"]
        assert one.concurrency_options
        assert one.concurrency_options.collision_strategy == wanted["concurrency_limit"]["collision_strategy"]
        schedules = [each.schedule for each in one.schedules or []]
        assert [(each.cron, each.timezone) for each in schedules if isinstance(each, CronSchedule)] == [
            (each["cron"], each["timezone"]) for each in wanted.get("schedules", [])
        ]
