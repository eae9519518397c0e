"""The steps of flows, as Prefect tasks; one module per noun."""

from collections.abc import Mapping
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext

from reelkeeper import logs
from reelkeeper.errors import StorageError


def _may_pass(_task: object, _run: object, state: Any) -> bool:  # noqa: ANN401  Prefect's signature
    return isinstance(state.result(raise_on_failure=False), StorageError)


# Retries of idempotent tasks that access the bucket, for its transient failures.
RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [5, 30],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _may_pass,
}


def _runs() -> Mapping[str, object]:
    """Return the ids of this thread's runs, for the log lines of the library, which does not know them."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    ids: dict[str, object] = {}
    if flow and flow.flow_run:
        ids |= {"flow_run_id": flow.flow_run.id, "flow_run_name": flow.flow_run.name}
    if task:
        ids |= {"flow_run_id": task.task_run.flow_run_id, "task_run_id": task.task_run.id}
        ids["task_run_name"] = task.task_run.name
    return ids


logs.also(_runs)
