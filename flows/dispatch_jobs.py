"""Which job next, which together: slots that are never idle while a job waits."""

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
    slots: Annotated[int, Field(ge=1, le=1000), FieldHelp("Jobs that this run keeps going at once, at most")] = 8,
    seconds: Annotated[int, Field(ge=1, le=3600), FieldHelp("How long it takes on new jobs")] = 285,
    until_idle: Annotated[bool, FieldHelp("End as soon as nothing is due")] = False,
    dry_run: DryRun = True,
) -> DispatchReport:
    """Keep at most `slots` jobs running for so many seconds, or until nothing is due; a dry run says which come first.

    In all workers together no more run than Prefect's global concurrency limit "generation" says, or, without one, than
    was steered last. The run fails, with the counts, when jobs used up their attempts; everything else is done then.
    """
    run_id = runs.run_id()

    with runs.workspace() as workspace:
        rules = followed(workspace.engine, order=order, tiers=tiers, attempts=attempts)  # asked anew at each claim
        if dry_run:
            return jobs.preview(workspace, rules, run_id)
        shift = Shift(slots, seconds, until_idle, order, tiers, attempts)
        report = jobs.keep_slots_full(workspace, shift, run_id)
    return report.require_whole()
