"""What people are told of flow runs that went wrong, as Prefect's automations report them."""

from enum import StrEnum
from typing import Final

from reelkeeper.model.alerts import Finding, Severity


class Trouble(StrEnum):
    """What went wrong with a run."""

    FAILED = "failed"
    CRASHED = "crashed"
    LATE = "late"


RULES: Final = tuple(f"run_{trouble}" for trouble in Trouble)
_HAPPENED: Final = {
    Trouble.FAILED: "failed",
    Trouble.CRASHED: "crashed: the process that ran it is gone",
    Trouble.LATE: "has not begun in time",
}
_ADVICE: Final = {
    Trouble.FAILED: "Its logs say why. What is done stays done; the next run does the rest.",
    Trouble.CRASHED: "The next run finishes what it has begun. If it goes on: memory, disk and log of the worker.",
    Trouble.LATE: "See whether a worker of its work pool is up, and not paused.",
}


def finding(trouble: Trouble, flow: str, *, run_name: str, message: str = "", url: str = "") -> Finding:
    """Say what went wrong with a run of `flow`. It is told once, until the flow has succeeded again."""
    name = flow.replace("-", "_")  # Prefect writes it with dashes
    figures = (("Run", run_name), *((("Look", url),) if url else ()))
    return Finding(
        rule=f"run_{trouble}",
        scope=scope(name),
        period="",
        level="",
        severity=Severity.WARNING,
        title=f"A run of {name} {_HAPPENED[trouble]}",
        text=message,
        suggestion=f"{_ADVICE[trouble]} Here and now: reelkeeper run {name} --apply",
        figures=figures,
    )


def scope(flow: str) -> str:
    """Name what such an alert is about."""
    return f"flow:{flow}"
