"""Check how long jobs wait and take, what they cost, how many fail, and how full the storage is."""

from typing import Annotated

from prefect import flow

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.health import findings
from reelkeeper.rules.health.performance import PerformancePolicy
from reelkeeper.rules.health.performance_report import PerformanceReport
from tasks import alerts, performance, runs
from tasks.runs import AsOf, DryRun


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def monitor_performance(
    goals: Annotated[PerformancePolicy | None, Override()] = None,
    tiers: Annotated[Tiers | None, Override()] = None,
    dry_run: DryRun = True,
    as_of: AsOf = None,
) -> PerformanceReport:
    """Judge the recently ended jobs, record figures per quarter of an hour, and alert on exceeded limits.

    A dry run records nothing and sends no alerts. Queue and storage are read as of now, whatever `as_of` says.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with runs.store() as engine:
        rules = followed(engine, goals=goals, tiers=tiers)
        seen = performance.read(engine, rules.goals, rules.tiers, as_of)
        windows = performance.work_out(engine, seen, as_of)

        judged = findings.judge(seen, rules.goals, as_of)

        observed = None
        if not dry_run:
            performance.record(engine, windows)
            observed = alerts.observe(
                engine, judged.findings, rules=judged.rules, run_id=run_id, unjudged=judged.unjudged
            )
            alerts.deliver(engine)
        recorded = 0 if dry_run else len({window.start_at for window in windows})
        return performance.publish(
            seen, judged.findings, run_id=run_id, as_of=as_of, recorded=recorded, observed=observed
        )
