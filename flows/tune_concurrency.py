"""Tune how many jobs run at once at each provider, from the jobs that ended."""

from typing import Annotated

from prefect import flow

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs import steering
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.steering import TuningReport
from tasks import limits, runs
from tasks.runs import AsOf, DryRun


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def tune_concurrency(
    concurrency: Annotated[ConcurrencyPolicy | None, Override()] = None,
    book: Annotated[PriceBook | None, Override()] = None,
    dry_run: DryRun = True,
    as_of: AsOf = None,
) -> TuningReport:
    """Set how many jobs run at once, at each provider and in total, from the jobs that ended since the last step.

    A dry run shows the limits that would be set. Each run sets all limits again, so that a deleted one is recreated.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with runs.store() as engine:
        rules = followed(engine, concurrency=concurrency, book=book)
        kept, before, ended, at_work, ways = limits.read(engine, rules.concurrency, as_of)

        tuned = steering.tune_lanes(before, ended, rules.book, rules.concurrency, as_of, at_work, ways)

        if not dry_run:
            after = steering.remember(tuned)
            limits.remember(engine, kept, after)
            limits.set_limit(after.limit)
        return limits.publish(before, tuned, rules.concurrency, run_id=run_id, as_of=as_of, dry_run=dry_run)
