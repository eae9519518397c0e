"""Run the jobs of the queue, and keep every slot busy while jobs wait."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.operations.jobs.worker import Shift
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.jobs.attempts import AttemptPolicy, DispatchReport
from reelkeeper.rules.jobs.dispatch import DispatchPolicy
from tasks import jobs, runs
from tasks.runs import DryRun, FieldHelp


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def dispatch_jobs(
    order: Annotated[DispatchPolicy | None, Override()] = None,
    tiers: Annotated[Tiers | None, Override()] = None,
    attempts: Annotated[AttemptPolicy | None, Override()] = None,
    slots: Annotated[int, Field(ge=1, le=1000), FieldHelp("Jobs that this run works on at once, at most")] = 8,
    seconds: Annotated[int, Field(ge=1, le=3600), FieldHelp("Seconds during which it starts new jobs")] = 300,
    until_idle: Annotated[bool, FieldHelp("End as soon as no job is due")] = False,
    dry_run: DryRun = True,
) -> DispatchReport:
    """Run up to `slots` jobs at once, for `seconds` or until no job is due. A dry run lists the jobs that come first.

    All workers together run at most as many jobs as Prefect's global concurrency limit "generation" allows, or without
    one, as many as tune_concurrency last set. The run fails, with the counts, if a job used up its attempts; the other
    jobs are done by then.
    """
    run_id = runs.run_id()

    with runs.workspace(waits=False) as workspace:  # its worker goes on with its jobs, and asks the store again
        rules = followed(workspace.engine, order=order, tiers=tiers, attempts=attempts)  # asked anew at each claim
        # guard trial.jobs: jobs are made and paid for where no result can be stored
        if dry_run or workspace.on_trial:
            return jobs.preview(workspace.engine, rules, run_id)
        workspace.require_safe()
        shift = Shift(slots, seconds, until_idle, order, tiers, attempts, runs.closing)
        report = jobs.keep_slots_full(workspace, shift, run_id)
    return report.require_complete()
