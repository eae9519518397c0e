"""Prepare the Prefect server of `reelkeeper up`: set it up, end dead runs, deploy prefect.yaml, start first runs.

`python -m deployments.deploy PREFECT_YAML TIME [--looks-only]`: runs that were active before TIME died with the last
`up`, whose processes all end with it. Marking them as crashed frees their slots for the next runs.
"""

import runpy
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, DeploymentSchedule
from prefect.deployments import runner
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.states import Cancelled, Crashed

from deployments.bootstrap import OLD_NAME, bootstrap, find_deployment
from deployments.machine import note_deployed
from deployments.pools import AT_WORK, PAGE, RENAMED, waiting
from deployments.prefect_internals import schedule
from deployments.up import LOOKS_ONLY, find_prefect_yaml
from reelkeeper.adapters.orchestrator import name_at_prefect
from reelkeeper.errors import Misconfigured, OrchestratorError, ReelkeeperError
from reelkeeper.operations.core.overrides import show_in_force
from reelkeeper.operations.core.policies import current
from reelkeeper.operations.core.policy_import import carried_over
from reelkeeper.rules.core.wording import many
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import open_store

FIRST: Final = "sync-catalog/hourly"  # run at once, to show that a new server works
AT_EACH_START: Final = "deliver-alerts/every-5-minutes"  # what was to be sent has waited, and new events would
STORAGE: Final = "storage"  # a tag in prefect.yaml, of flows that work on stored videos
_DIED: Final = "It died with the `reelkeeper up` that ran it"
_ONLY_READS: Final = "It would make changes, and `reelkeeper up` only reads here: go live with reelkeeper up --live"
_AS_WRITTEN: Final = ("name", "description", "tags", "parameters", "enforce_parameter_schema")
READY_SECONDS: Final = 240.0  # a first start creates Prefect's database: 10 s, or a minute on a busy machine


def wait_for_server(client: SyncPrefectClient) -> None:
    """Wait until the server answers. Raises OrchestratorError when it takes too long."""
    ends = time.monotonic() + READY_SECONDS
    while error := client.api_healthcheck():
        if time.monotonic() > ends:
            raise OrchestratorError(
                f"Prefect's server gave no answer for {READY_SECONDS:.0f} s ({type(error).__name__}): its log, "
                "server.log, says why. If its database is damaged, move the folder prefect out of the state folder and "
                "start again: it holds only records of runs, and the schedules are deployed anew"
            )
        time.sleep(0.25)


def end_dead_runs(client: SyncPrefectClient, before: datetime) -> int:
    """Mark the runs that were active before `moment` as crashed; return how many."""
    found = client.read_flow_runs(flow_run_filter=AT_WORK, limit=PAGE)
    dead = [run for run in found if run.state and run.state.timestamp < before]
    for run in dead:
        client.set_flow_run_state(run.id, Crashed(message=_DIED))
    return len(dead)


def cancel_live(client: SyncPrefectClient, flows: Collection[str]) -> int:
    """Cancel waiting runs of these flows that would make changes, from before `up` only read; return how many."""
    live = [run for run in waiting(client, flows) if run.parameters.get("dry_run") is not True]
    for run in live:
        # guard up.live_cancelled: a person's run, or one to be retried, changes a bucket that `up` only reads
        client.set_flow_run_state(run.id, Cancelled(message=_ONLY_READS), force=True)
    return len(live)


def begin_first(client: SyncPrefectClient, moment: str) -> None:
    """Start what is not to wait for its schedule: at this start of `up`, and once in a server's life.

    The same idempotency key again gives the same run. What a person has paused is left alone.
    """
    for name, key in ((FIRST, f"first of {FIRST}"), (AT_EACH_START, f"first since {moment}")):
        deployment = client.read_deployment_by_name(name)
        if not deployment.paused:
            client.create_flow_run_from_deployment(deployment.id, idempotency_key=key, tags=["first-run"])


def deploy(client: SyncPrefectClient, written: Path, folder: Path, *, looks_only: bool = False) -> None:
    """Do what `prefect deploy --all` does, but leave paused deployments paused, which that would resume.

    With `looks_only`, all flows that change stored videos make dry runs, and waiting runs that would change them are
    cancelled. Raises SystemExit if deploying fails, Misconfigured for a prefect.yaml of 0.1.0, and
    PolicyRefused for a parameter that nobody can set now.
    """
    document = yaml.safe_load(written.read_text())
    if OLD_NAME in [deployment["name"] for deployment in document["deployments"]]:
        raise Misconfigured(
            f"{written} is that of release 0.1.0, whose deployments are named {OLD_NAME!r}: use this release's file"
        )
    carried_over(document["deployments"])
    if looks_only:
        only_look(document)
    old = []
    for deployment in document["deployments"]:
        renamed, present = (
            find_deployment(client, f"{_flow(deployment)}/{name}") for name in (OLD_NAME, deployment["name"])
        )
        old += [renamed] if renamed else []
        standing = present or renamed
        # guard up.paused_deployments: a restart or an update resumes what a person has stopped, such as all purges
        if standing and standing.paused:
            deployment["paused"] = True
        off = [as_made for as_made in standing.schedules if not as_made.active] if standing else []
        if deployment.get("schedules"):  # one without keeps those that people have given it
            deployment["schedules"] = [_kept_off(entry, off) for entry in deployment["schedules"]]
        pool = deployment["work_pool"]  # of a file that people have changed, the pool may be one of 0.1.0
        deployment["work_pool"] = pool | {"name": RENAMED.get(pool["name"], pool["name"])}
    kept = folder / "prefect.yaml"
    kept.write_text(yaml.safe_dump(document, sort_keys=False))
    sys.argv = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(kept)]
    try:
        runpy.run_module("prefect", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    for renamed in old:
        client.delete_deployment(renamed.id)
    if looks_only:
        cancelled = cancel_live(client, storage_flows(written))
        print(f"{many(cancelled, 'waiting run')} cancelled that would have made changes.", flush=True)


def redeploy() -> None:
    """Deploy prefect.yaml to the configured server, as `deploy` does; the state folder may be read-only."""
    with get_client(sync_client=True) as client, tempfile.TemporaryDirectory() as folder:
        deploy(client, find_prefect_yaml(), Path(folder))


def storage_flows(written: Path) -> frozenset[str]:
    """Read from prefect.yaml the names of the flows that change stored videos."""
    document = yaml.safe_load(written.read_text())
    return frozenset(_flow(entry) for entry in document["deployments"] if _changes_videos(entry))


def only_look(document: dict[str, Any]) -> None:
    """Set all deployments that change stored videos to dry runs."""
    for deployment in document["deployments"]:
        if _changes_videos(deployment):
            deployment["parameters"] = deployment.get("parameters", {}) | {"dry_run": True}


def _kept_off(written: dict[str, Any], off: Sequence[DeploymentSchedule]) -> dict[str, Any]:
    """Return a schedule of prefect.yaml, paused where a person has paused it: one of its slug, or else of its times."""
    new = schedule(written)
    # guard up.paused_schedules: an update resumes a schedule, as somebody has added another: Prefect makes all anew
    is_off = any(old.slug == new.get("slug") if old.slug else old.schedule == new["schedule"] for old in off)
    return written | {"active": False} if is_off else written


def _flow(entry: dict[str, Any]) -> str:
    return name_at_prefect(entry["entrypoint"].rpartition(".")[2])


def _changes_videos(entry: dict[str, Any]) -> bool:
    """Check whether a deployment's flow changes stored videos; sync_catalog only takes them into the catalogue."""
    return STORAGE in entry["tags"] and _flow(entry) != "sync-catalog"


def declared_deployments(path: Path) -> list[runner.RunnerDeployment]:
    """Read prefect.yaml for Prefect's `serve`: names, schedules, parameters and limits, no pools or pull steps.

    Raises PolicyRefused for a parameter that nobody can set now.
    """
    deployments = yaml.safe_load(path.read_text())["deployments"]
    carried_over(deployments)
    return [_deployment(deployment) for deployment in deployments]


def _deployment(entry: dict[str, Any]) -> runner.RunnerDeployment:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
    return flow.to_deployment(  # type: ignore[return-value]  # a coroutine only where one is running
        **{name: entry[name] for name in _AS_WRITTEN},
        schedules=[DeploymentScheduleCreate(**schedule(written)) for written in entry.get("schedules", [])],
        concurrency_limit=ConcurrencyLimitConfig(**entry["concurrency_limit"]),
        entrypoint_type=runner.EntrypointType.MODULE_PATH,  # type: ignore[attr-defined]  # Prefect's own place of it
    )


def main(written: str, moment: str, *options: str) -> None:
    """Set up the server, end dead runs, deploy, and start the first runs."""
    with get_client(sync_client=True) as client, open_store(settings()) as engine:
        wait_for_server(client)
        # Its server is a part of `up`, and works for no other store.
        print(*bootstrap(engine=engine, api_url=settings().api_url, claim=True), sep="\n", flush=True)
        dead = end_dead_runs(client, datetime.fromisoformat(moment))
        print(f"{many(dead, 'dead run')} marked as crashed.", flush=True)
        show_in_force(current(engine).policies)
        deploy(client, Path(written), settings().state_dir, looks_only=LOOKS_ONLY in options)
        note_deployed(client, engine)
        begin_first(client, moment)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ReelkeeperError as error:
        sys.exit(str(error))  # one line, which `up` shows
