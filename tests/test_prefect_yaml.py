"""prefect.yaml is the only schedule: it has every flow, and only keys that Prefect and the flows accept."""

import ast
import copy
import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from cronsim import CronSim
from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, PrefectYamlModel, WorkPoolConfig
from prefect.flows import Flow, load_flow_from_entrypoint
from pydantic import BaseModel, ValidationError

from deployments import automations
from deployments.pools import POOLS
from reelkeeper.cli.commands.up import _DUE
from reelkeeper.rules.alerts import cadence
from reelkeeper.rules.alerts.cadence import CADENCES
from tasks.plans import HELPERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WRITTEN: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {item["entrypoint"]: item for item in WRITTEN["deployments"]}
SCHEDULED = sorted(entrypoint for entrypoint, entry in DEPLOYMENTS.items() if "schedules" in entry)
TRANSCODING = {"flows.tier_storage.tier_storage", "flows.transcode_videos.transcode_videos"}
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
    "transcode_videos": (),  # a run of tier_storage asks for it
    "expire_videos": "0 3 * * *",
    "prune_cache": "0 5 * * *",
    "purge_retired": "0 4 * * *",
    "back_up_store": "30 5 * * *",
    "settle_accounts": "30 * * * *",
}
IN_WORDS: dict[str | tuple[str, ...], str] = {
    (): "when `tier_storage` asks for `helpers`",
    "*/5 * * * *": "every 5 minutes",
    "*/15 * * * *": "every 15 minutes",
    "0 * * * *": "hourly",
    "15 * * * *": "hourly at :15",
    "30 * * * *": "hourly at :30",
    "30 5 * * *": "daily at 05:30",
    **{f"0 {hour} * * *": f"daily at {hour:02}:00" for hour in range(24)},
    ("0 6 1 * *", "0 6 * * 1"): "Mondays and the 1st, at 06:00",
}


def test_every_flow_has_one_deployment() -> None:
    assert len(DEPLOYMENTS) == len(WRITTEN["deployments"])
    assert DEPLOYMENTS.keys() == FLOWS


def test_the_first_night_that_up_shows_begins_when_the_schedule_says() -> None:
    shown = {flow: due.split(":") for flow, due in _DUE.items()}
    assert {flow: f"{int(minute)} {int(hour)} * * *" for flow, (hour, minute) in shown.items()} == {
        flow: SCHEDULES[flow] for flow in shown
    }


def unknown_keys(written: dict[str, Any]) -> set[str]:
    """Return the keys that Prefect would not read; its own models ignore them, but for those of schedules."""
    PrefectYamlModel.model_validate(written)
    found = keys(written, PrefectYamlModel) - {"definitions"}
    for deployment in written["deployments"]:
        found |= keys(deployment, DeploymentConfig)
        found |= keys(deployment.get("concurrency_limit", {}), ConcurrencyLimitSpec)
        found |= keys(deployment.get("work_pool", {}), WorkPoolConfig)
        found |= set(deployment.get("work_pool", {}).get("job_variables", {})) - {"env"}
    return found


def keys(written: dict[str, Any], model: type[BaseModel]) -> set[str]:
    return set(written) - {field.alias or name for name, field in model.model_fields.items()}


def test_no_key_is_misspelt() -> None:
    assert not unknown_keys(WRITTEN)


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ((), "deployment"),
        (("deployments", 0), "concurency_limit"),
        (("deployments", 0), "schedles"),
        (("deployments", 0), "parametres"),
        (("deployments", 1, "concurrency_limit"), "colision_strategy"),
        (("deployments", 2, "work_pool"), "nmae"),
        (("deployments", 2, "work_pool", "job_variables"), "environment"),
    ],
)
def test_a_misspelt_key_would_be_found(place: tuple[str | int, ...], key: str) -> None:
    written = copy.deepcopy(WRITTEN)
    at: Any = written
    for step in place:
        at = at[step]
    at[key] = 1
    assert key in unknown_keys(written)


def test_a_misspelt_key_of_a_schedule_is_refused_by_prefect() -> None:
    written = copy.deepcopy(WRITTEN)
    written["deployments"][0]["schedules"][0]["timezoen"] = "UTC"
    with pytest.raises(ValidationError):
        unknown_keys(written)


@pytest.mark.parametrize("entrypoint", sorted(DEPLOYMENTS))
def test_the_readme_and_the_docstring_of_the_flow_say_the_same(entrypoint: str) -> None:
    name, deployment = entrypoint.rpartition(".")[2], DEPLOYMENTS[entrypoint]
    asks, when = re.findall(rf"^\| `{name}` \| ([^|]+) \| ([^|]+) \|", README, re.MULTILINE)[0]
    assert deployment["description"].startswith(asks)
    assert IN_WORDS[SCHEDULES[name]] == when
    says = ast.get_docstring(ast.parse((ROOT / "flows" / f"{name}.py").read_text()))
    assert says
    assert says.endswith(".")


@pytest.mark.parametrize("entrypoint", sorted(DEPLOYMENTS))
def test_every_deployment_runs_in_a_pool_of_bootstrap_with_a_heartbeat(entrypoint: str) -> None:
    pool = DEPLOYMENTS[entrypoint]["work_pool"]
    assert pool["name"] == ("encode" if entrypoint in TRANSCODING else "main")
    assert pool["name"] in POOLS
    assert pool["job_variables"] == {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}}


def test_flows_whose_runs_automations_end_and_tell_of_are_those_deployed() -> None:
    assert {entrypoint.rpartition(".")[2] for entrypoint in DEPLOYMENTS} == {*cadence.FLOWS}


@pytest.mark.parametrize("entrypoint", SCHEDULED)
def test_deployments_that_run_once_an_hour_or_less_often_run_again_after_a_crash_or_an_outage(entrypoint: str) -> None:
    name, deployment = entrypoint.rpartition(".")[2], DEPLOYMENTS[entrypoint]
    assert (automations.AGAIN in deployment["tags"]) == (CADENCES[name].period_seconds >= 3_600)


def test_several_runs_share_the_queue_and_a_plan_and_all_others_run_alone() -> None:
    limits = {text.rpartition(".")[2]: said["concurrency_limit"] for text, said in DEPLOYMENTS.items()}
    several = {name: limit["limit"] for name, limit in limits.items() if limit["limit"] > 1}
    helpers = load_flow_from_entrypoint("flows.tier_storage.tier_storage").parameters.properties["helpers"]["maximum"]
    assert several == {"dispatch_jobs": 4, "transcode_videos": helpers}  # a dead run keeps its slot for 90 s or more
    assert {limit["collision_strategy"] for limit in limits.values()} == {"CANCEL_NEW"}


@pytest.mark.parametrize("entrypoint", sorted(DEPLOYMENTS))
def test_a_deployment_changes_things_once_at_its_time(entrypoint: str) -> None:
    deployment = DEPLOYMENTS[entrypoint]
    assert deployment["parameters"]["dry_run"] is False
    assert deployment["description"]
    due = SCHEDULES[entrypoint.rpartition(".")[2]]
    schedules = deployment.get("schedules", [])
    assert [schedule["cron"] for schedule in schedules] == ([due] if isinstance(due, str) else [*due])
    assert all(schedule["timezone"] == "UTC" for schedule in schedules)


@pytest.mark.parametrize("entrypoint", sorted(DEPLOYMENTS))
def test_a_deployments_flow_loads_accepts_its_parameters_and_defaults_to_a_dry_run(entrypoint: str) -> None:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    deployment = DEPLOYMENTS[entrypoint]
    taken = flow.validate_parameters(deployment["parameters"])
    for schedule in deployment.get("schedules", []):
        flow.validate_parameters(deployment["parameters"] | schedule.get("parameters", {}))
    assert taken["dry_run"] is False
    assert flow.parameters.properties["dry_run"]["default"] is True
    assert flow.description


def test_the_deployment_of_helpers_exists() -> None:
    names = {
        f"{entrypoint.rpartition('.')[2].replace('_', '-')}/{entry['name']}"
        for entrypoint, entry in DEPLOYMENTS.items()
    }
    assert HELPERS in names


@pytest.mark.parametrize("entrypoint", SCHEDULED)
def test_a_deployment_is_named_for_how_often_it_runs(entrypoint: str) -> None:
    assert DEPLOYMENTS[entrypoint]["name"] == CADENCES[entrypoint.rpartition(".")[2]].name


def test_tags_are_words() -> None:
    assert {tag for entry in DEPLOYMENTS.values() for tag in entry["tags"]} == {
        *("alerts", "cache", "money", "queue", "storage", "store"),
        automations.AGAIN,
    }


@pytest.mark.parametrize("entrypoint", SCHEDULED)
def test_the_watchdog_knows_how_often_a_flow_runs(entrypoint: str) -> None:
    name = entrypoint.rpartition(".")[2]
    begin, runs = datetime(2026, 1, 1, tzinfo=UTC), set[datetime]()
    for schedule in DEPLOYMENTS[entrypoint]["schedules"]:
        due = CronSim(schedule["cron"], begin)
        runs |= {next(due) for _ in range(800 if "*/" in schedule["cron"] else 100)}
    longest = max(later - sooner for sooner, later in pairwise(sorted(runs)[:90]))
    assert CADENCES[name].period_seconds == longest.total_seconds()
    assert 0 < CADENCES[name].grace_seconds <= CADENCES[name].period_seconds * 2


@pytest.mark.parametrize("entrypoint", SCHEDULED)
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


@pytest.mark.parametrize("entrypoint", sorted(DEPLOYMENTS))
def test_its_form_says_what_each_parameter_is(entrypoint: str) -> None:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    schema = flow.parameters
    silent = [
        name
        for name, prop in schema.properties.items()
        if not (prop.get("description") or _described(prop, schema.definitions))
    ]
    assert silent == []
    fields = [
        (model, name)
        for model, definition in schema.definitions.items()
        for name, item in definition.get("properties", {}).items()
        if not (item.get("description") or _described(item, schema.definitions))
    ]
    assert fields == []


def _described(entry: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether what a parameter refers to says what it is."""
    refs = [part["$ref"] for part in (entry, *entry.get("allOf", []), *entry.get("anyOf", [])) if "$ref" in part]
    return bool(refs) and all(definitions[ref.rpartition("/")[2]].get("description") for ref in refs)
