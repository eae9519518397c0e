"""The hands: what flows do, as Prefect tasks by noun."""

from typing import Any

from reelkeeper.errors import StorageError


def _may_pass(_task: object, _run: object, state: Any) -> bool:  # noqa: ANN401  Prefect's signature
    return isinstance(state.result(raise_on_failure=False), StorageError)


# How a task that talks to the bucket, and is safe to repeat, outlasts a spell of trouble there.
RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [5, 30],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _may_pass,
}
