"""Help a run of tier_storage to compress."""

from uuid import uuid4

from prefect import flow

from reelkeeper.rules.lifecycle.report import HelpReport
from tasks import plans, reports, runs, transcodes
from tasks.runs import DryRun


# guard alerts.helpers: after the first helper that failed, no other is ever told
@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def transcode_videos(dry_run: DryRun = True) -> HelpReport:
    """Compress videos of the plan that a run of `tier_storage` is carrying out. Any number of runs may help.

    Nothing is planned, judged or retired here. A run ends when no video is left; if the `tier_storage` run has died by
    then, this run writes its report. Without such a plan there is nothing to do. A dry run shows what is left.
    """
    run_id = runs.run_id()

    with runs.workspace() as workspace:
        plan_id = plans.under_way(workspace.engine)
        if dry_run or plan_id is None:
            return reports.publish_help(workspace, run_id, plan_id, None if dry_run else [])

        with runs.lease(workspace, f"transcode_videos/{uuid4().hex}") as held:
            outcomes = transcodes.compress_planned(workspace, held, plan_id)
            if inherited := plans.inherit(workspace.engine, held, plan_id):
                reports.publish(workspace, *inherited)
        report = reports.publish_help(workspace, run_id, plan_id, outcomes)
    return report.require_complete()
