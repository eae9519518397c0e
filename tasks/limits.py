"""How many jobs run at once: read what it stands on, remembered, and set where Prefect keeps it."""

from datetime import datetime

from prefect import get_client, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.model.jobs import GLOBAL_LIMIT
from reelkeeper.model.performance import FinishedJob, JobAtWork
from reelkeeper.operations import Engine, Kept
from reelkeeper.operations.jobs import queue
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.steering import Steered, Tuned, TuningReport, explain

FLOW = "tune_concurrency"


@task(task_run_name="read what is remembered", cache_policy=NO_CACHE)
def read(
    engine: Engine, policy: ConcurrencyPolicy, as_of: datetime
) -> tuple[Kept, Steered, list[FinishedJob], list[JobAtWork]]:
    """Read what the rule remembers, the jobs that ended since its last step, and those at work."""
    return queue.steered(engine, policy, as_of)


@task(task_run_name="remember the limit", cache_policy=NO_CACHE)
def remember(engine: Engine, before: Kept, steered: Steered) -> None:
    """Keep what the next step stands on. Raises LeaseLost where another run has stepped meanwhile."""
    queue.remember(engine, before, steered)


@task(task_run_name="set the limit to {limit}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def set_limit(limit: int) -> None:
    """Set Prefect's global concurrency limit, and make it where there is none. One that is disabled stays so."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, limit)


@task(task_run_name="report on the limit", cache_policy=NO_CACHE)
def publish(tuned: Tuned, policy: ConcurrencyPolicy, *, run_id: str, as_of: datetime, dry_run: bool) -> TuningReport:
    """Show the step, and what it stands on."""
    step, text = tuned.step, explain(tuned, policy)
    report = TuningReport(
        FLOW, run_id, dry_run, as_of, tuned.before, step.limit, step.reason, len(tuned.finished), text
    )
    seen = [
        f"| {2 ** (sample.bucket / 5):.0f} | {sample.rate:.2f} | {sample.weight:.0f} |"
        for sample in tuned.steered.known.seen
    ]
    title = f"## {report.before} -> {report.limit} jobs at once, as of {as_of:%Y-%m-%d %H:%M} UTC"
    rows = ["| jobs at once | work of idle servers, as seen | jobs |", "|--:|--:|--:|", *seen] if seen else []
    markdown = "\n".join([f"{title}{' (dry run)' if dry_run else ''}", "", text, "", *rows])
    create_markdown_artifact(markdown, key="tune-concurrency-step", description=f"Why: {step.reason}")
    get_run_logger().info("%s", text)
    return report
