"""The limit of concurrent jobs: read its inputs, save its state, and set Prefect's limit."""

from collections.abc import Sequence
from datetime import datetime

from prefect import get_client, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.model.jobs import GLOBAL_LIMIT
from reelkeeper.model.performance import FinishedJob, JobAtWork
from reelkeeper.operations import Engine, Kept
from reelkeeper.operations.jobs import queue
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.lanes import Lane
from reelkeeper.rules.jobs.steering import LaneReport, Lanes, Tuned, TuningReport, explain

FLOW = "tune_concurrency"


@task(task_run_name="read state and ended jobs", cache_policy=NO_CACHE)
def read(
    engine: Engine, policy: ConcurrencyPolicy, as_of: datetime
) -> tuple[Kept | None, Lanes, list[FinishedJob], list[JobAtWork], dict[str, Lane]]:
    """Read the saved state, the jobs that ended since each lane's last step, those at work, and what vendors take."""
    return queue.steered(engine, policy, as_of)


@task(task_run_name="save the limits", cache_policy=NO_CACHE)
def remember(engine: Engine, before: Kept | None, after: Lanes) -> None:
    """Save the state for the next step. Raises LeaseLost if another run has stepped in the meantime."""
    queue.remember(engine, before, after)


@task(task_run_name="set the limit to {limit}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def set_limit(limit: int) -> None:
    """Set Prefect's global concurrency limit, or create it. A disabled one stays disabled."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, limit)


@task(task_run_name="report on the limits", cache_policy=NO_CACHE)
def publish(
    before: Lanes, tuned: Sequence[Tuned], policy: ConcurrencyPolicy, *, run_id: str, as_of: datetime, dry_run: bool
) -> TuningReport:
    """Show each lane's new limit, and the evidence for it."""
    lanes = tuple(
        LaneReport(of.lane, of.before, of.step.limit, of.step.reason, len(of.finished), explain(of, policy))
        for of in tuned
    )
    text = " ".join(lane.explained for lane in lanes)
    limit, jobs = sum(lane.limit for lane in lanes), sum(lane.jobs for lane in lanes)
    report = TuningReport(FLOW, run_id, dry_run, as_of, before.limit, limit, jobs, lanes, text)
    lines = [f"## {before.limit} -> {many(limit, 'job')} at once, as of {as_of:%Y-%m-%d %H:%M} UTC"]
    lines[0] += " (dry run)" if dry_run else ""
    for of, lane in zip(tuned, lanes, strict=True):
        lines += ["", *([f"### {lane.lane}", ""] if lane.lane else []), lane.explained, ""]
        if seen := of.steered.known.seen:
            lines += ["| jobs at once | throughput, in idle servers | jobs |", "|--:|--:|--:|"]
            lines += [
                f"| {2 ** (sample.bucket / 5):.0f} | {sample.rate:.2f} | {sample.weight:.0f} |" for sample in seen
            ]
    why = ", ".join(dict.fromkeys(lane.reason for lane in lanes))
    create_markdown_artifact("\n".join(lines), key="tune-concurrency-step", description=f"Why: {why}")
    get_run_logger().info("%s", text)
    return report
