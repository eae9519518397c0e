"""How the service is doing: how long jobs wait and take, what they cost, how many fail, how full the storage is."""

from prefect import flow

from reelkeeper.rules.alerts.alerting import AlertPolicy
from reelkeeper.rules.billing.quota import QuotaPolicy
from reelkeeper.rules.health import findings
from reelkeeper.rules.health.performance import PerformancePolicy
from reelkeeper.rules.health.performance_report import PerformanceReport
from tasks import alerts, depots, heartbeats, performance, runs
from tasks.parameters import AsOf, DryRun


@flow(flow_run_name=runs.run_name, on_completion=[heartbeats.beat])
def monitor_performance(
    goals: PerformancePolicy = PerformancePolicy(),
    quota: QuotaPolicy = QuotaPolicy(),
    alerting: AlertPolicy = AlertPolicy(),
    dry_run: DryRun = True,
    as_of: AsOf = None,
) -> PerformanceReport:
    """Judge the jobs that ended lately, record each quarter of an hour, and tell of what is over its limit.

    A dry run neither records nor tells. The queue and the storage are those of this moment, whatever `as_of` says.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with depots.store() as engine:
        seen = performance.read(engine, goals, quota, as_of)
        windows = performance.work_out(engine, seen, as_of)

        judged = findings.judge(seen, goals, as_of)

        observed = None
        if not dry_run:
            performance.record(engine, windows)
            observed = alerts.observe(engine, judged.findings, rules=judged.rules, run_id=run_id, policy=alerting)
            alerts.deliver(engine)
        recorded = 0 if dry_run else len({one.start_at for one in windows})
        return performance.publish(
            seen, judged.findings, run_id=run_id, as_of=as_of, recorded=recorded, observed=observed
        )
