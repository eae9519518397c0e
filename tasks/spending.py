"""Spending: collect and charge usage, read it for the rules, and show it with their findings."""

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime

from prefect.logging import get_run_logger

from reelkeeper.adapters import cloudflare
from reelkeeper.model.alerts import Finding
from reelkeeper.model.document import Table
from reelkeeper.operations.alerts.alerts import Observed
from reelkeeper.operations.billing import metering
from reelkeeper.operations.billing.metering import Collected
from reelkeeper.operations.core.workspace import Workspace, flush_operations
from reelkeeper.rules.spend.watch import CostsReport, Spent, lines
from reelkeeper.settings import settings
from tasks import show, step, tabulate, worst_first


@step("collect usage")
def collect(workspace: Workspace, as_of: datetime) -> Collected:
    """Sample the catalogue, and query Cloudflare if a token is set; if it does not answer, use our own count."""
    flush_operations(workspace.engine, workspace.bucket)
    client = cloudflare.connect(settings())
    if client is None:
        return metering.collect(workspace.engine, None, as_of)
    with closing(client):
        found = metering.collect(workspace.engine, client, as_of)
    if found.trouble:
        get_run_logger().warning("Cloudflare's usage is not available, so our own count is used: %s", found.trouble)
    return found


charge = step("charge usage")(metering.charge)
read = step("read spend")(metering.spent)


@step("report on the spend")
def publish(
    spent: Spent, found: Sequence[Finding], *, run_id: str, as_of: datetime, charged: int, observed: Observed | None
) -> CostsReport:
    """Show the month's bill so far, and the findings. `observed` is None in a dry run, which sends no alerts."""
    found = worst_first(found)
    bill = lines(spent.charges, as_of)
    report = CostsReport(
        "monitor_costs",
        run_id,
        observed is None,
        as_of,
        bill[-1].today,
        bill[-1].month,
        tuple(f"{finding.severity}: {finding.title}. {finding.text}" for finding in found),
        charged,
        observed.opened if observed else 0,
        observed.resolved if observed else 0,
        spent.trouble,
    )
    title = f"The bill of {as_of:%Y-%m}, as of {as_of:%Y-%m-%d %H:%M} UTC{' (dry run)' if report.dry_run else ''}"
    rows = [(line.service, line.today, line.month, line.month_at_list_price) for line in bill]
    document = (
        Table(("service", ">today", ">this month", ">at list price"), rows),
        "Users' charges are at list price; free allowances and rounding make the difference.",
        tabulate(found),
    )
    show("monitor-costs-bill", title, document, "The bill of the month so far")
    get_run_logger().info(
        "%s today, %s this month; %d findings", report.spent_today, report.spent_this_month, len(found)
    )
    return report
