"""Whether holds, balances and bytes add up, and what nobody settled in time."""

from prefect import flow

from reelkeeper.rules.accounts import AccountsReport
from tasks import accounts, depots, heartbeats, runs


@flow(flow_run_name=runs.run_name, on_completion=[heartbeats.beat])
def settle_accounts(dry_run: bool = True) -> AccountsReport:
    """Give back overdue holds and reservations, then count every balance and every user's bytes anew.

    A figure that does not add up freezes all changes, and people are told. A dry run only looks.
    """
    run_id = runs.run_id()

    with depots.opened() as depot:
        if dry_run:
            return accounts.publish(accounts.preview(depot, run_id))

        with depots.lease(depot, "settle_accounts") as lease:
            report = accounts.give_back(depot, lease, run_id)
            accounts.act(depot, report.mismatches, run_id)
            accounts.publish(report)
    return report.require_sound()
