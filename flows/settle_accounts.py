"""Check that holds, balances and bytes add up, and release overdue holds and reservations."""

from prefect import flow

from reelkeeper.rules.billing.accounts import RULE, AccountsReport, findings
from tasks import accounts, alerts, runs
from tasks.runs import DryRun


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def settle_accounts(dry_run: DryRun = True) -> AccountsReport:
    """Recount every balance and every user's bytes, then release overdue holds and reservations.

    On a mismatch, all changes are frozen, an alert fires until it is resolved, and nothing is released. A dry run
    changes nothing.
    """
    run_id = runs.run_id()

    with runs.workspace() as workspace:
        report = accounts.look(workspace, run_id, dry_run=dry_run)
        if dry_run:
            return accounts.publish(report)

        if report.mismatches:
            # guard ledger.mismatch_stops: books that do not add up go on being changed
            accounts.stop(workspace.engine, report.mismatches, run_id=run_id)
        alerts.observe(workspace.engine, findings(report.mismatches), rules=[RULE], run_id=run_id)
        alerts.deliver(workspace.engine)
        accounts.publish(report).require_sound()

        with runs.lease(workspace, "settle_accounts") as held:
            accounts.give_back(workspace, held, run_id)
    return report
