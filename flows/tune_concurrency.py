"""Set how many jobs run at once at each provider: the controller steps as often as ended jobs give it evidence."""

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
    """Look at the jobs that ended since the last step, and set how many run at once: at each provider, and in all.

    A dry run says what the limits would be. They are set in each run, so that one which was lost comes back.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with runs.store() as engine:
        rules = followed(engine, concurrency=concurrency, book=book)
        kept, before, ended, at_work = limits.read(engine, rules.concurrency, as_of)

        tuned = steering.tune_lanes(before, ended, rules.book, rules.concurrency, as_of, at_work)

        if not dry_run:
            after = steering.remember(tuned)
            limits.remember(engine, kept, after)
            limits.set_limit(after.limit)
        return limits.publish(before, tuned, rules.concurrency, run_id=run_id, as_of=as_of, dry_run=dry_run)
