"""The work pools, and the move to them from those of 0.1.0.

A worker of 0.1.0 looks at neither the store's schema nor the deployment before it takes runs: it takes whatever is due
in the pools that it knows by name, and each run fails. So the pools have other names since, to which everything that
waits in the old ones is moved; those hand out nothing any more, and the workers that still poll them are found there.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final
from uuid import UUID

from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, WorkerFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType, Worker, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Scheduled
from prefect.workers.process import ProcessWorker

from reelkeeper.adapters.orchestrator import name_at_prefect
from reelkeeper.rules.alerts.cadence import FLOWS

POOLS: Final = ("main", "encode")
RENAMED: Final = {"default": "main", "transcode": "encode"}  # from their names in 0.1.0
_OURS: Final = [name_at_prefect(flow) for flow in FLOWS]
_EMPTIED: Final = "Paused by `reelkeeper bootstrap`: Reelkeeper's deployments and runs are in the work pool {}."
_OF_SCHEDULE: Final = "Missed: a later run of the same schedule does its work"
PAGE: Final = 200


def in_pools(*names: str) -> WorkPoolFilter:
    """Select what is in these work pools."""
    return WorkPoolFilter.model_validate({"name": {"any_": names}})


def of_flows(names: Iterable[str]) -> FlowFilter:
    """Select what is of these flows."""
    return FlowFilter.model_validate({"name": {"any_": sorted(names)}})


def in_states(*states: StateType) -> FlowRunFilter:
    """Select runs in these states."""
    return FlowRunFilter.model_validate({"state": {"type": {"any_": states}}})


def waiting(client: SyncPrefectClient, flows: Iterable[str], pool: WorkPoolFilter | None = None) -> list[FlowRun]:
    """Read all scheduled runs of these flows, in a pool or anywhere."""
    scheduled, found = in_states(StateType.SCHEDULED), list[FlowRun]()
    read = partial(client.read_flow_runs, flow_filter=of_flows(flows), flow_run_filter=scheduled, work_pool_filter=pool)
    while page := read(limit=PAGE, offset=len(found)):
        found += page
    return found


AT_WORK: Final = in_states(StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


def create(client: SyncPrefectClient, name: str, *, force: bool) -> str:
    """Create a work pool unless it exists; return what was done. One that was renamed stays as people have set it.

    It has no limit of its own: each worker brings one, so that the sum follows the machines.
    """
    found = _find(client, name)
    before = next((_find(client, old) for old, new in RENAMED.items() if new == name), None)
    if found is None and before:
        same = before.model_dump(include={"type", "base_job_template", "concurrency_limit"})
        stopped = before.is_paused and not _is_emptied(before)
        client.create_work_pool(WorkPoolCreate(name=name, is_paused=stopped, **same))
        return f"Work pool {name}: created like {before.name}, {_limit(before)}."
    if found is None:
        template = ProcessWorker.get_default_base_job_template()
        made = client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
        return f"Work pool {name}: created, {_limit(made)}."
    if force and found.concurrency_limit is not None:
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=None))
        return f"Work pool {name}: its limit of {found.concurrency_limit} runs at once was removed."
    _, others = _deployments(client, name)
    mixed = f" Deployments there that are not Reelkeeper's: {others}; its workers take their runs." if others else ""
    return f"Work pool {name}: exists, of type {found.type}, {_limit(found)}.{mixed}"


def empty(client: SyncPrefectClient) -> Iterator[str]:
    """Move deployments and waiting runs out of the pools of 0.1.0, and pause those; yield a line for each.

    A pool in which other deployments than Reelkeeper's remain is not paused.
    """
    for old, new in RENAMED.items():
        pool, there = _find(client, old), in_pools(old)
        if pool is None:
            continue
        ours, others = _deployments(client, old)
        emptied = WorkPoolUpdate(is_paused=True, description=_EMPTIED.format(new))
        # guard machines.emptied: a worker of 0.1.0 takes runs, and each of them fails
        if not others:
            client.update_work_pool(old, emptied)  # first, so that none is taken while they move
        for deployment in ours:  # the runs that its schedule has made for the future are made anew
            client.update_deployment(deployment.id, DeploymentUpdate(work_pool_name=new))
        moved = _move(client, [run for run in waiting(client, _OURS, there) if run.deployment_id], new)
        kept = f"left to {others} deployments that are not Reelkeeper's" if others else "paused"
        yield f"Work pool {old}: {kept}; {len(ours)} deployments and {moved} waiting runs were moved to {new}."


def _deployments(client: SyncPrefectClient, pool: str) -> tuple[list[DeploymentResponse], int]:
    """Read Reelkeeper's deployments in a pool, and count the others."""
    read = partial(client.read_deployments, work_pool_filter=in_pools(pool), limit=PAGE)
    ours = read(flow_filter=of_flows(_OURS))
    return ours, len(read()) - len(ours)


def superseded(runs: Iterable[FlowRun]) -> set[UUID]:
    """Return the runs that a later one makes unnecessary: one of the same deployment, with the same parameters.

    Several that are due at the same time are to share their work.
    """
    newest: dict[tuple[UUID | None, str], list[FlowRun]] = {}
    over = set[UUID]()
    for run in sorted(
        runs, key=lambda flow_run: (flow_run.expected_start_time is not None, flow_run.expected_start_time)
    ):
        if not run.auto_scheduled:
            continue  # started by a person
        key = run.deployment_id, repr(sorted(run.parameters.items()))
        same = newest.setdefault(key, [])
        if same and same[0].expected_start_time != run.expected_start_time:
            over |= {earlier.id for earlier in same}
            same.clear()
        same.append(run)
    return over


async def polling_emptied(client: PrefectClient) -> list[tuple[str, Worker]]:
    """Return the workers that poll a pool which `empty` has paused, each with the pool."""
    online = WorkerFilter.model_validate({"status": {"any_": ["ONLINE"]}})
    return [
        (pool.name, worker)
        for pool in await client.read_work_pools(work_pool_filter=in_pools(*RENAMED))
        if _is_emptied(pool)
        for worker in await client.read_workers_for_work_pool(pool.name, online)
    ]


def _limit(pool: WorkPool) -> str:
    most = pool.concurrency_limit
    return "as many runs at once as its workers take" if most is None else f"at most {most} runs at once"


def _find(client: SyncPrefectClient, name: str) -> WorkPool | None:
    try:
        return client.read_work_pool(name)
    except ObjectNotFound:
        return None


def _is_emptied(pool: WorkPool) -> bool:
    return pool.is_paused and pool.description == _EMPTIED.format(RENAMED[pool.name])


def _move(client: SyncPrefectClient, runs: list[FlowRun], pool: str) -> int:
    """Make each run anew, in the pool of its deployment, and cancel the old one; return how many.

    Prefect moves no run from pool to pool. A repetition after a kill finds those that it has made.
    """
    missed = superseded(runs)
    for run in runs:
        message = _OF_SCHEDULE
        if run.id not in missed:
            made = client.create_flow_run_from_deployment(
                run.deployment_id,  # type: ignore[arg-type]  # `empty` leaves those without
                parameters=run.parameters,
                state=Scheduled(scheduled_time=run.next_scheduled_start_time or run.expected_start_time),
                name=run.name,
                tags=[tag for tag in run.tags if tag != "auto-scheduled"],
                job_variables=run.job_variables,
                idempotency_key=f"moved from {run.id}",
            )
            message = f"Moved to the work pool {pool}, as run {made.id}"
        client.set_flow_run_state(run.id, Cancelled(message=message), force=True)
    return len(runs) - len(missed)
