"""Performance: read figures for the rules, record them, and show them with the findings."""

from collections.abc import Sequence
from datetime import datetime

from prefect.logging import get_run_logger

from reelkeeper.model.alerts import Finding
from reelkeeper.model.document import Table
from reelkeeper.operations.alerts.alerts import Observed
from reelkeeper.operations.health import status
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.health.findings import ServiceState
from reelkeeper.rules.health.performance import figures, waiting
from reelkeeper.rules.health.performance_report import PerformanceReport, line, lines, percent, seconds
from tasks import show, step, tabulate, worst_first

read = step("read performance figures")(status.read_performance)
work_out = step("compute the windows")(status.work_out_windows)
record = step("record the windows")(status.record_windows)


@step("report on performance")
def publish(
    seen: ServiceState,
    found: Sequence[Finding],
    *,
    run_id: str,
    as_of: datetime,
    recorded: int,
    observed: Observed | None,
) -> PerformanceReport:
    """Show performance by tier and model, and the findings. `observed` is None in a dry run, which sends no alerts."""
    found = worst_first(found)
    all_of_it, queue = figures(seen.ended), waiting(seen.in_flight, as_of)
    shown, filled = line("all", all_of_it), seen.filled
    report = PerformanceReport(
        "monitor_performance",
        run_id,
        observed is None,
        as_of,
        len(seen.ended),
        seconds(all_of_it["wait_mean_seconds"]),
        seconds(all_of_it["processing_mean_seconds"]),
        shown.succeeded,
        shown.cost,
        int(queue["queued"] or 0),
        seconds(queue["oldest_wait_seconds"]),
        percent(100 * filled.used_bytes / filled.limit_bytes) if filled and filled.limit_bytes else "-",
        tuple(f"{finding.severity}: {finding.title}. {finding.text}" for finding in found),
        recorded,
        observed.opened if observed else 0,
        observed.resolved if observed else 0,
    )
    dry = " (dry run)" if report.dry_run else ""
    queued = f"{many(report.queued, 'job')} waiting, the oldest for {report.oldest_wait}"
    waits = f"{queued}; storage is {report.storage} full{dry}"
    headings = ("of", ">ended", ">succeeded", ">wait, mean / p95", ">processing, mean / p95", ">cost", ">cache hits")
    document = (f"{waits}.", Table(headings, lines(seen.ended)), tabulate(found))
    show("monitor-performance-report", f"As of {as_of:%Y-%m-%d %H:%M} UTC", document)
    get_run_logger().info("%d jobs ended; %s; %d findings", report.ended, waits, len(found))
    return report
