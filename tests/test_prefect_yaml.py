"""prefect.yaml is the only schedule: it names every flow, and says nothing that Prefect or a flow would not take."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from cronsim import CronSim
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.flows import Flow, load_flow_from_entrypoint

from reelkeeper.rules.cadence import CADENCES
from reelkeeper.rules.lifecycle import FLOW_RULES

ROOT = Path(__file__).parent.parent
WRITTEN: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {one["entrypoint"]: one for one in WRITTEN["deployments"]}
FLOWS = {f"flows.{path.stem}.{path.stem}" for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__"}
SCHEDULES: dict[str, str | tuple[str, ...]] = {
    "deliver_alerts": "*/5 * * * *",
    "dispatch_jobs": "*/5 * * * *",
    "forecast_costs": ("0 6 1 * *", "0 6 * * 1"),
    "monitor_costs": "15 * * * *",
    "tune_concurrency": "*/15 * * * *",
    "monitor_performance": "*/15 * * * *",
    "sync_catalog": "0 * * * *",
    "tier_storage": "0 2 * * *",
    "expire_videos": "0 3 * * *",
    "prune_cache": "0 5 * * *",
    "purge_retired": "0 4 * * *",
    "settle_accounts": "30 * * * *",
}


def test_every_flow_has_one_deployment() -> None:
    assert len(DEPLOYMENTS) == len(WRITTEN["deployments"])
    assert DEPLOYMENTS.keys() == FLOWS
    assert {f"flows.{flow}.{flow}" for flow in FLOW_RULES} <= FLOWS


def test_no_key_is_misspelt() -> None:
    model = PrefectYamlModel.model_validate(WRITTEN)  # ignores what it does not know, but for schedules
    known = set(type(model.deployments[0]).model_fields) if model.deployments else set()
    assert {key for one in WRITTEN["deployments"] for key in one} <= known


@pytest.mark.parametrize("entrypoint", sorted(DEPLOYMENTS))
def test_a_deployment_changes_things_once_at_its_time(entrypoint: str) -> None:
    deployment = DEPLOYMENTS[entrypoint]
    assert deployment["parameters"]["dry_run"] is False
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["description"]
    due = SCHEDULES[entrypoint.rpartition(".")[2]]
    assert [one["cron"] for one in deployment["schedules"]] == ([due] if isinstance(due, str) else [*due])
    assert all(one["timezone"] == "UTC" for one in deployment["schedules"])


@pytest.mark.parametrize("entrypoint", sorted(DEPLOYMENTS))
def test_its_flow_loads_takes_its_parameters_and_is_a_dry_run_by_itself(entrypoint: str) -> None:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    deployment = DEPLOYMENTS[entrypoint]
    taken = flow.validate_parameters(deployment["parameters"])
    for schedule in deployment["schedules"]:
        flow.validate_parameters(deployment["parameters"] | schedule.get("parameters", {}))
    assert taken["dry_run"] is False
    assert flow.parameters.properties["dry_run"]["default"] is True
    assert flow.description


@pytest.mark.parametrize("entrypoint", sorted(DEPLOYMENTS))
def test_the_watchdog_knows_how_often_a_flow_runs(entrypoint: str) -> None:
    name = entrypoint.rpartition(".")[2]
    begin, runs = datetime(2026, 1, 1, tzinfo=UTC), set[datetime]()
    for schedule in DEPLOYMENTS[entrypoint]["schedules"]:
        due = CronSim(schedule["cron"], begin)
        runs |= {next(due) for _ in range(800 if "*/" in schedule["cron"] else 100)}
    longest = max(later - sooner for sooner, later in pairwise(sorted(runs)[:90]))
    assert CADENCES[name].period_seconds == longest.total_seconds()
    assert 0 < CADENCES[name].grace_seconds <= CADENCES[name].period_seconds * 2


@pytest.mark.parametrize("entrypoint", sorted(DEPLOYMENTS))
def test_a_flow_gives_a_sign_of_life_when_it_has_succeeded(entrypoint: str) -> None:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert [hook.__name__ for hook in flow.on_completion_hooks] == ["beat"]


@pytest.mark.parametrize(
    "wrong", [{"limits": {"max_percent": 101}}, {"limits": {"max_objects": -1}}, {"as_of": "2026-11-24T02:00:00"}]
)
def test_contradictory_parameters_are_refused_before_a_flow_begins(wrong: dict[str, Any]) -> None:
    flow: Flow[..., Any] = load_flow_from_entrypoint("flows.tier_storage.tier_storage", use_placeholder_flow=False)
    with pytest.raises(Exception, match="invalid parameters"):
        flow.validate_parameters(wrong)
