"""Accounts: overdue holds and reservations given back, everything counted anew, and changes stopped on a mismatch."""

from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.model.money import Mismatch
from reelkeeper.operations import accounts, alerts
from reelkeeper.operations.depot import Depot
from reelkeeper.operations.lease import Lease
from reelkeeper.rules.accounts import RULE, AccountsReport, findings

FLOW = "settle_accounts"


@task(task_run_name="look at what is overdue", cache_policy=NO_CACHE)
def preview(depot: Depot, run_id: str) -> AccountsReport:
    """Count what is overdue and what does not add up; nothing is changed."""
    (holds, microusd), (reserved, size_bytes) = accounts.overdue(depot.engine)
    wrong = tuple(accounts.recount(depot.engine))
    return AccountsReport(FLOW, run_id, True, holds, microusd, reserved, size_bytes, wrong)


@task(task_run_name="give back what is overdue", cache_policy=NO_CACHE)
def give_back(depot: Depot, lease: Lease, run_id: str) -> AccountsReport:
    """Void overdue holds and reservations, then count everything anew."""
    lease.check()
    holds = accounts.void_holds(depot.engine, grant=lease.grant, run_id=run_id)
    reserved = accounts.void_reservations(depot.engine, grant=lease.grant)
    return AccountsReport(
        FLOW,
        run_id,
        False,
        len(holds),
        sum(moved.amount_microusd for moved in holds),
        len(reserved),
        sum(one.size_bytes for one in reserved),
        tuple(accounts.recount(depot.engine)),
    )


@task(task_run_name="act on what does not add up", cache_policy=NO_CACHE)
def act(depot: Depot, mismatches: tuple[Mismatch, ...], run_id: str) -> None:
    """Freeze all changes and put the alert into the outbox; where all adds up, the alert is over."""
    if mismatches:
        accounts.stop(depot.engine, mismatches, run_id=run_id)
    alerts.observe(depot.engine, findings(mismatches), rules=[RULE], run_id=run_id)


@task(task_run_name="report on the accounts", cache_policy=NO_CACHE)
def publish(report: AccountsReport) -> AccountsReport:
    """Show what was overdue, and what does not add up."""
    figures = {name: value for name, value in asdict(report).items() if name.startswith("expired_")}
    lines = [f"# {report.flow}, run {report.run_id}{' (dry run)' if report.dry_run else ''}", "", "| | |", "|---|--:|"]
    lines += [f"| {name.replace('_', ' ')} | {value:,} |" for name, value in figures.items()]
    lines += [f"| figures that do not add up | {len(report.mismatches):,} |"]
    create_markdown_artifact("\n".join(lines), key="settle-accounts-report")
    if report.mismatches:
        rows = [one._asdict() for one in report.mismatches]
        create_table_artifact(rows, key="settle-accounts-mismatches", description="Kept, and counted anew")
    told = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in figures.items())
    get_run_logger().info("%s: %s; %s do not add up", report.flow, told, f"{len(report.mismatches):,}")
    return report
