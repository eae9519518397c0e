"""Spending: collect and charge usage, read it for the rules, and show it with their findings."""

import re
from collections.abc import Sequence
from contextlib import closing
from datetime import date, datetime

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.adapters import cloudflare
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.operations.alerts.alerts import Observed
from reelkeeper.operations.billing import metering
from reelkeeper.operations.billing.metering import Collected
from reelkeeper.operations.core.workspace import Workspace, flush_operations
from reelkeeper.redaction import SHOWN, unnamed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.spend.watch import CostsReport, Spent, lines
from reelkeeper.settings import settings

FLOW = "monitor_costs"


@task(task_run_name="collect usage", cache_policy=NO_CACHE)
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


@task(task_run_name="charge usage", cache_policy=NO_CACHE)
def charge(workspace: Workspace, book: PriceBook, as_of: datetime) -> int:
    """Charge each day of this month whose charges do not match its usage; return how many."""
    return metering.charge(workspace.engine, book, as_of)


@task(task_run_name="read spend", cache_policy=NO_CACHE)
def read(workspace: Workspace, as_of: datetime, *, first: date, users: Sequence[str], trouble: str = "") -> Spent:
    """Read the charges since `first`, also by each of `users`, the last forecast, and the days without charges.

    Today does not count as a day without charges.
    """
    return metering.spent(workspace.engine, as_of, first=first, users=users, trouble=trouble)


@task(task_run_name="report on the spend", cache_policy=NO_CACHE)
def publish(
    spent: Spent, found: Sequence[Finding], *, run_id: str, as_of: datetime, charged: int, observed: Observed | None
) -> CostsReport:
    """Show the month's bill so far, and the findings. `observed` is None in a dry run, which sends no alerts."""
    worst = list(reversed(Severity))
    found = sorted(found, key=lambda finding: (worst.index(finding.severity), -(finding.impact_microusd or 0)))
    bill = lines(spent.charges, as_of)
    report = CostsReport(
        FLOW,
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
    title = f"## The bill of {as_of:%Y-%m}, as of {as_of:%Y-%m-%d %H:%M} UTC{' (dry run)' if report.dry_run else ''}"
    rows = ["| service | today | this month | at list price |", "|---|--:|--:|--:|"]
    rows += [f"| {line.service} | {line.today} | {line.month} | {line.month_at_list_price} |" for line in bill]
    rows += ["", "Users' charges are at list price; free allowances and rounding make the difference."]
    create_markdown_artifact(
        "\n".join([title, "", *rows]), key="monitor-costs-bill", description="The bill of the month so far"
    )
    if found:
        kept = ("rule", "scope", "period", "level", "severity", "title", "text", "suggestion")
        table = [{name: _without_user(finding, str(getattr(finding, name))) for name in kept} for finding in found]
        create_table_artifact(table, key="monitor-costs-findings", description=f"Findings of run {run_id}")
    get_run_logger().info(
        "%s today, %s this month; %d findings", report.spent_today, report.spent_this_month, len(found)
    )
    return report


def _without_user(finding: Finding, text: str) -> str:
    """Remove the user's id from a finding, since Prefect must not store one."""
    kind, _, user = finding.scope.partition(":")
    return re.sub(rf"(?<![\w-]){re.escape(user)}(?![\w-])", SHOWN, text) if kind == "user" and user else unnamed(text)
