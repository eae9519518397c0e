"""Back up the store, once a week restore the backup as a check, and delete old ones."""

from typing import Annotated

from prefect import flow

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.core.record_retention import RecordRetentionPolicy
from reelkeeper.rules.health.backups import RULE, BackupReport, failed
from tasks import accounts, alerts, runs
from tasks.runs import DryRun


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def back_up_store(
    record_retention: Annotated[RecordRetentionPolicy | None, Override()] = None, dry_run: DryRun = True
) -> BackupReport:
    """Copy the store to the place of its backups, and delete those that are too old by `record_retention.backups_days`.

    Once a week the new backup is restored into a scratch store: rows, sums and audit record must be as they were. If
    anything fails, no backup is deleted, and an alert fires until a run succeeds. It works while changes are frozen.
    A dry run only counts what is kept.
    """
    run_id = runs.run_id()

    with runs.store() as engine:
        rules = followed(engine, record_retention=record_retention)
        if dry_run:
            return accounts.count_backups(run_id)
        try:
            report = accounts.back_up(engine, days=rules.record_retention.backups_days, run_id=run_id)
        except Exception as error:
            # guard backups.told: nobody learns that there is no backup until one is needed
            alerts.observe(engine, [failed(error)], rules=[RULE], run_id=run_id)
            alerts.deliver(engine)
            raise
        alerts.observe(engine, [], rules=[RULE], run_id=run_id)
        alerts.deliver(engine)
    return report
