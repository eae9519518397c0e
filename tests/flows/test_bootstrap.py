"""`bootstrap` on a real server: missing parts are created, people's settings kept, the token never shown."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, GlobalConcurrencyLimitCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.states import AwaitingRetry

from deployments import automations, machine
from deployments.bootstrap import BLOCK, bootstrap
from deployments.deploy import cancel_live
from deployments.pools import POOLS
from reelkeeper.errors import Misconfigured
from reelkeeper.model.jobs import GLOBAL_LIMIT
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from reelkeeper.store.core.deployment import deployed
from reelkeeper.store.core.engine import reading
from tests.reading import as_read

ROOT = Path(__file__).parents[2]
API = "http://127.0.0.1:8787"


def ours(client: SyncPrefectClient) -> list[dict[str, object]]:
    found: list[dict[str, object]] = client.request("POST", "/automations/filter", json={}).json()
    return found


def kept(client: SyncPrefectClient) -> tuple[str, str, UUID] | None:
    found = [block for block in client.read_block_documents(include_secrets=True) if block.name == BLOCK]
    return (found[0].data["headers"]["Authorization"][7:], found[0].data["url"], found[0].id) if found else None


def names(client: SyncPrefectClient) -> set[str]:
    """Return every deployment as FLOW/NAME."""
    flows = {flow.id: flow.name for flow in client.read_flows(limit=200)}
    return {f"{flows[deployment.flow_id]}/{deployment.name}" for deployment in client.read_deployments(limit=200)}


def limit(client: SyncPrefectClient) -> int:
    return client.read_global_concurrency_limit_by_name(GLOBAL_LIMIT).limit


def test_missing_parts_are_created_and_a_second_run_changes_nothing(
    client: SyncPrefectClient, sqlite_engine: sa.Engine
) -> None:
    said = list(bootstrap(engine=sqlite_engine, api_url=API))
    assert {pool.name: pool.concurrency_limit for pool in client.read_work_pools()} == dict.fromkeys(POOLS)
    made, block = ours(client), kept(client)
    assert block
    assert limit(client) == 8
    assert len(made) == 7
    text, url, _ = block
    caller = tokens.authenticate(sqlite_engine, text)
    assert caller
    assert caller.scopes == {Scope.RUNS}
    assert url == f"{API}/hooks/runs"
    assert text not in "".join(said)
    assert as_read(list(bootstrap(engine=sqlite_engine, api_url=API))[-1]) == snapshot(
        "Automations: 7, 0 of them created or updated."
    )
    assert ours(client) == made
    assert kept(client) == block
    assert len(tokens.listed(sqlite_engine)) == 1


def test_our_deployments_are_found_among_pages_of_others(
    client: SyncPrefectClient, sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PAGE", 3)
    for flow, name in (("sync-catalog", "hourly"), ("tier-storage", "daily"), ("of-others", "a1"), ("of-others", "a2")):
        client.create_deployment(client.create_flow_from_name(flow), name)
    machine.note_deployed(client, sqlite_engine)
    with reading(sqlite_engine) as session:
        assert deployed(session) == frozenset({"sync_catalog", "tier_storage"})


def test_the_block_hides_its_token_unless_secrets_are_requested(
    client: SyncPrefectClient, sqlite_engine: sa.Engine
) -> None:
    list(bootstrap(engine=sqlite_engine, api_url=API))
    block = kept(client)
    assert block
    assert block[0] not in repr(
        [read_block_document.data for read_block_document in client.read_block_documents(include_secrets=False)]
    )
    assert block[0] not in repr(Webhook.load(BLOCK))


def test_a_pool_that_others_use_as_well_is_told(client: SyncPrefectClient) -> None:
    list(bootstrap())
    client.create_deployment(client.create_flow_from_name("nightly-etl"), "nightly", work_pool_name="main")
    client.create_deployment(client.create_flow_from_name("sync-catalog"), "hourly", work_pool_name="main")
    counted = {line.split()[2]: re.findall(r"\d+", line) for line in bootstrap() if line.startswith("Work pool")}
    assert counted == {"main:": ["1"], "encode:": []}


def test_limits_set_by_people_or_tune_concurrency_stay_unless_forced(client: SyncPrefectClient) -> None:
    list(bootstrap())
    client.update_work_pool("main", WorkPoolUpdate(concurrency_limit=3))
    client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, 13)
    off = ours(client)[0]
    client.request("PATCH", "/automations/{id}", path_params={"id": off["id"]}, json={"enabled": False})
    list(bootstrap())
    assert client.read_work_pool("main").concurrency_limit == 3
    assert limit(client) == 13
    assert [our["enabled"] for our in ours(client) if our["id"] == off["id"]] == [False]
    list(bootstrap(force=True))
    assert client.read_work_pool("main").concurrency_limit is None
    assert limit(client) == 8


def test_the_limit_is_found_among_many_of_others(client: SyncPrefectClient) -> None:
    for number in range(200):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=f"a{number}", limit=1))
    client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GLOBAL_LIMIT, limit=13))
    list(bootstrap())
    assert limit(client) == 13
    for number in range(200):
        client.delete_global_concurrency_limit_by_name(f"a{number}")


def test_an_automation_that_is_not_as_it_should_be_is_brought_up_to_date(client: SyncPrefectClient) -> None:
    list(bootstrap())
    wanted = next(automations.inner())
    (found,) = client.read_automations_by_name(wanted.name)
    other = AutomationCore.model_validate(
        wanted.model_dump(exclude={"owner_resource"}) | {"trigger": EventTrigger().model_dump()}
    )
    client.update_automation(found.id, other)
    assert as_read(list(bootstrap())[-1]) == snapshot("Automations: 4, 1 of them created or updated.")
    (found,) = client.read_automations_by_name(wanted.name)
    assert isinstance(found.trigger, EventTrigger)
    assert found.trigger.within == timedelta(seconds=90)


def test_an_automation_under_its_earlier_name_is_renamed_stays_off_and_stands_once(client: SyncPrefectClient) -> None:
    """One that an earlier version wrote again beside the new one would start each run twice."""
    list(bootstrap())
    wanted = {each.name: each for each in automations.inner()}
    for name, earlier in automations.EARLIER_NAMES.items():
        (found,) = client.read_automations_by_name(name)
        old = wanted[name].model_copy(update={"name": earlier, "enabled": False})
        client.update_automation(found.id, AutomationCore.model_validate(old.model_dump(exclude={"owner_resource"})))
    assert as_read(list(bootstrap())[-1]) == snapshot("Automations: 4, 2 of them created or updated.")
    assert {our["name"] for our in ours(client)} == wanted.keys()
    assert {our["name"] for our in ours(client) if not our["enabled"]} == automations.EARLIER_NAMES.keys()
    before = ours(client)
    for name, earlier in automations.EARLIER_NAMES.items():
        client.create_automation(wanted[name].model_copy(update={"name": earlier}))
    list(bootstrap())
    assert ours(client) == before


def test_without_the_apis_address_the_alerting_of_failed_runs_is_explained(client: SyncPrefectClient) -> None:
    said = " ".join(bootstrap())
    assert "REELKEEPER_API_URL" in said
    assert "watchdog" in said
    assert len(ours(client)) == 4
    assert kept(client) is None


def test_a_token_that_was_revoked_is_replaced_and_another_address_is_taken(
    client: SyncPrefectClient, sqlite_engine: sa.Engine
) -> None:
    list(bootstrap(engine=sqlite_engine, api_url=API))
    before = kept(client)
    assert before
    list(bootstrap(engine=sqlite_engine, api_url="https://api.example.org/"))
    moved = kept(client)
    assert moved
    assert moved[:2] == (before[0], "https://api.example.org/hooks/runs")
    tokens.revoke(sqlite_engine, tokens.listed(sqlite_engine)[0].id, author="test")
    list(bootstrap(engine=sqlite_engine, api_url=API))
    after = kept(client)
    assert after
    assert after[0] != before[0]
    assert tokens.authenticate(sqlite_engine, after[0])


def test_deployments_under_old_names_are_stopped_and_paused_ones_stay_paused(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    for name in ("sync-catalog", "purge-retired", "not-ours"):
        every_hour = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 * * * *", timezone="UTC"), active=True)
        client.create_deployment(
            flow_id=client.create_flow_from_name(name),
            name="scheduled",
            schedules=[every_hour],
            paused=name == "purge-retired",
        )
    said = [line for line in bootstrap() if line.startswith("Deployment")]
    assert [line.split(":")[0].split()[1] for line in said] == ["purge-retired/scheduled", "sync-catalog/scheduled"]
    assert as_read(said[0]) == snapshot("""\
Deployment purge-retired/scheduled: paused, so it was kept. `reelkeeper deploy` replaces it with
  purge-retired/daily, paused as well.\
""")
    assert names(client) == {"not-ours/scheduled", "purge-retired/scheduled"}  # paused, it runs nothing
    ours_from_before = tmp_path / "with-old-pools.yaml"
    text = (ROOT / "prefect.yaml").read_text()
    ours_from_before.write_text(
        text.replace("{name: main,", "{name: default,").replace("{name: encode,", "{name: transcode,")
    )
    for paused in ({"purge-retired/daily"}, {"purge-retired/daily", "prune-cache/daily"}):
        deploy_all(client, tmp_path, ours_from_before)
        assert {client.read_deployment_by_name(name).work_pool_name for name in names(client)} == {None, *POOLS}
        assert names(client) & {"purge-retired/scheduled", "sync-catalog/scheduled"} == set()
        assert len(names(client)) == 15
        assert {name for name in names(client) if client.read_deployment_by_name(name).paused} == paused
        client.pause_deployment(client.read_deployment_by_name("prune-cache/daily").id)
    assert not [line for line in bootstrap() if line.startswith("Deployment")]
    tiering = client.read_deployment_by_name("tier-storage/daily").id
    live = client.create_flow_run_from_deployment(tiering, parameters={"dry_run": False}).id
    deploy_all(client, tmp_path, looks_only=True)
    assert client.read_flow_run(live).state_type == StateType.CANCELLED
    found = {name: client.read_deployment_by_name(name) for name in names(client) - {"not-ours/scheduled"}}
    assert {name for name, deployment in found.items() if deployment.parameters["dry_run"]} == {
        *("tier-storage/daily", "transcode-videos/on-demand"),
        *("expire-videos/daily", "purge-retired/daily"),
    }


@pytest.mark.long("it deploys all flows, twice")
def test_what_a_person_has_paused_stays_so_at_each_update(client: SyncPrefectClient, tmp_path: Path) -> None:
    list(bootstrap())
    words = [sys.executable, "-c", "from reelkeeper.cli import app; app(['deploy'])"]
    given = os.environ | {"PREFECT_API_URL": str(client.api_url), "REELKEEPER_STATE_DIR": str(tmp_path)}
    for paused in (set[str](), {"purge-retired/daily"}):
        subprocess.run(words, cwd=tmp_path, env=given, check=True, timeout=280)
        found = {name: client.read_deployment_by_name(name) for name in names(client)}
        assert {name for name, deployment in found.items() if deployment.paused} == paused
        off = {name for name, made in found.items() if not all(schedule.active for schedule in made.schedules)}
        assert off == ({"tier-storage/daily"} if paused else set())
        client.pause_deployment(found["purge-retired/daily"].id)
        (nightly,) = found["tier-storage/daily"].schedules
        client.update_deployment_schedule(found["tier-storage/daily"].id, nightly.id, active=False)
        own = CronSchedule(cron="0 5 * * 6", timezone="UTC")  # of a person, in the UI, where none has a slug
        client.create_deployment_schedules(found["tier-storage/daily"].id, [DeploymentScheduleCreate(schedule=own)])


def deploy_all(
    client: SyncPrefectClient, folder: Path, written: Path = ROOT / "prefect.yaml", *, looks_only: bool = False
) -> None:
    """Deploy a prefect.yaml in a process of its own, as `up` does."""
    script = (
        "from pathlib import Path; from prefect import get_client; from deployments.deploy import deploy;"
        "client = get_client(sync_client=True).__enter__();"
        f"deploy(client, Path({str(written)!r}), Path({str(folder)!r}), looks_only={looks_only})"
    )
    words = [sys.executable, "-c", script]
    subprocess.run(words, cwd=ROOT, env=os.environ | {"PREFECT_API_URL": str(client.api_url)}, check=True, timeout=280)


@pytest.mark.parametrize("wrong", ["127.0.0.1:8787", "ftp://host", "http://", "http://user:secret@host"])
def test_an_invalid_address_is_refused(client: SyncPrefectClient, sqlite_engine: sa.Engine, wrong: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        list(bootstrap(engine=sqlite_engine, api_url=wrong))
    assert as_read(refused.value, given=repr(wrong)) == snapshot(
        "<given> is not the URL of an API: give http://HOST:PORT, without user and password"
    )
    assert kept(client) is None


def test_waiting_runs_that_would_change_a_bucket_that_up_only_reads_are_cancelled(client: SyncPrefectClient) -> None:
    runs: dict[tuple[str, bool], UUID] = {}
    for name in ("purge-retired", "sync-catalog"):
        flow_id = client.create_flow_from_name(name)
        made = client.create_deployment(flow_id, "a", parameters={"dry_run": False})
        for dry_run in (True, False):
            runs[name, dry_run] = client.create_flow_run_from_deployment(made, parameters={"dry_run": dry_run}).id
    retried = client.create_flow_run_from_deployment(client.read_deployment_by_name("purge-retired/a").id)
    client.set_flow_run_state(retried.id, AwaitingRetry(), force=True)
    assert cancel_live(client, {"purge-retired"}) == 2
    states = {key: client.read_flow_run(run_id).state_type for key, run_id in runs.items()}
    assert [key for key, state in states.items() if state == StateType.CANCELLED] == [("purge-retired", False)]
    assert client.read_flow_run(retried.id).state_type == StateType.CANCELLED
    assert cancel_live(client, {"purge-retired"}) == 0
