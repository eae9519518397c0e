"""Which prefect.yaml is deployed; `deployments.serve` serves all of its deployments."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule

from deployments.deploy import declared_deployments
from deployments.up import find_prefect_yaml
from reelkeeper.errors import Misconfigured

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


OTHERS = "deployments: [{name: nightly, entrypoint: 'etl.py:main', work_pool: {name: default}}]"


@pytest.mark.parametrize("other", [OTHERS, "name: shop", "", "- 1", "deployments:", "deployments: [1]"])
def test_the_prefect_yaml_of_another_project_is_not_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.yaml").write_text(other)
    assert find_prefect_yaml() == WRITTEN


@pytest.mark.parametrize("entrypoint", ["flows.tier_storage.tier_storage", "flows/dispatch_jobs.py:dispatch_jobs"])
def test_a_changed_copy_in_this_folder_is_deployed_also_with_flows_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entrypoint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load(OTHERS)
    document["deployments"].append({"name": "daily", "entrypoint": entrypoint})
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(document))
    assert find_prefect_yaml() == tmp_path / "prefect.yaml"


def test_a_prefect_yaml_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (b"deployments: [", b"\xff\xfe\x00"):
        (tmp_path / "prefect.yaml").write_bytes(content)
        with pytest.raises(Misconfigured):
            find_prefect_yaml()
