"""The limit of concurrent jobs: read its inputs, save its state, and set Prefect's limit."""

from collections.abc import Sequence
from datetime import datetime

from prefect import get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.model.document import Table
from reelkeeper.model.jobs import GLOBAL_LIMIT
from reelkeeper.operations.jobs import queue
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.steering import LaneReport, Lanes, Tuned, TuningReport, explain
from tasks import show, step

read = step("read state and ended jobs")(queue.steered)
remember = task(task_run_name="save the limits", cache_policy=NO_CACHE)(queue.remember)


@task(task_run_name="set the limit to {limit}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def set_limit(limit: int) -> None:
    """Set Prefect's global concurrency limit, or create it. A disabled one stays disabled."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, limit)


@step("report on the limits")
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
    report = TuningReport("tune_concurrency", run_id, dry_run, as_of, before.limit, limit, jobs, lanes, text)
    dry = " (dry run)" if dry_run else ""
    title = f"{before.limit} -> {many(limit, 'job')} at once, as of {as_of:%Y-%m-%d %H:%M} UTC{dry}"
    document: list[str | Table] = []
    for of, lane in zip(tuned, lanes, strict=True):
        seen = [
            (f"{2 ** (sample.bucket / 5):.0f}", f"{sample.rate:.2f}", f"{sample.weight:.0f}")
            for sample in of.steered.known.seen
        ]
        headings = (">jobs at once", ">throughput, in idle servers", ">jobs")
        document += [lane.explained, Table(headings, seen, lane.lane)]
    why = ", ".join(dict.fromkeys(lane.reason for lane in lanes))
    show("tune-concurrency-step", title, document, f"Why: {why}")
    get_run_logger().info("%s", text)
    return report
