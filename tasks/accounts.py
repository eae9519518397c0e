"""Accounts and backups: recount everything, stop on a mismatch, release what is overdue; back the store up."""

from dataclasses import asdict

from prefect.logging import get_run_logger

from reelkeeper.model.document import Table
from reelkeeper.operations import Engine
from reelkeeper.operations.core.lease import HeldLease
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.health import accounts, backups
from reelkeeper.rules.billing.accounts import AccountsReport
from reelkeeper.rules.health.backups import BackupReport
from reelkeeper.settings import settings
from tasks import show, step


@step("recount balances and bytes")
def look(workspace: Workspace, run_id: str, *, dry_run: bool) -> AccountsReport:
    """Count overdue holds and reservations, and the mismatches; nothing is changed."""
    (holds, microusd), (reserved, size_bytes) = accounts.overdue(workspace.engine)
    wrong = tuple(accounts.recount(workspace.engine))
    return AccountsReport("settle_accounts", run_id, dry_run, holds, microusd, reserved, size_bytes, wrong)


stop = step("freeze all changes")(accounts.stop)


@step("release overdue holds and reservations")
def give_back(workspace: Workspace, held: HeldLease, run_id: str) -> None:
    """Release overdue holds and reservations."""
    held.check()
    holds = accounts.void_holds(workspace.engine, lease=held.lease, run_id=run_id)
    reserved = accounts.void_reservations(workspace.engine, lease=held.lease)
    get_run_logger().info("released %d overdue holds and %d overdue reservations", len(holds), len(reserved))


@step("report on the accounts")
def publish(report: AccountsReport) -> AccountsReport:
    """Show the overdue holds and reservations, and the mismatches."""
    overdue = {name.replace("_", " "): value for name, value in asdict(report).items() if name.startswith("overdue_")}
    figures = Table(("", ">"), [*overdue.items(), ("figures that do not add up", len(report.mismatches))])
    wrong = [(of.what, "see reelkeeper credits recount", of.recorded, of.counted) for of in report.mismatches]
    mismatches = Table(("figure", "subject", ">stored", ">recounted"), wrong, "Mismatches")
    show("settle-accounts-report", report.title, [figures, mismatches])
    text = ", ".join(f"{name} {value:,}" for name, value in overdue.items())
    get_run_logger().info("%s: %s; %s mismatches", report.flow, text, f"{len(report.mismatches):,}")
    return report


def count_backups(run_id: str) -> BackupReport:
    """Count the backups that are kept."""
    return backups.look(settings(), run_id)


@step("back up the store")
def back_up(engine: Engine, *, days: int, run_id: str) -> BackupReport:
    """Make a backup, restore it if that is due, and delete old ones."""
    report = backups.back_up(engine, settings(), days=days, run_id=run_id)
    get_run_logger().info("%s", report)
    return report
