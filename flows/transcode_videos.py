"""What is left of a plan for one more worker."""

from uuid import uuid4

from prefect import flow

from reelkeeper.rules.lifecycle.report import HelpReport
from tasks import depots, plans, reports, runs, transcodes
from tasks.parameters import DryRun


@flow(flow_run_name=runs.run_name)
def transcode_videos(dry_run: DryRun = True) -> HelpReport:
    """Help to compress what the plan says that a run of `tier_storage` is carrying out. Any number of runs may help.

    Nothing is planned, judged or retired here. A run ends when nothing is left; if the run that it helps is dead by
    then, it writes the report in its place. Without such a plan there is nothing to do. A dry run says what is left.
    """
    run_id = runs.run_id()

    with depots.opened() as depot:
        plan_id = plans.under_way(depot)
        if dry_run or plan_id is None:
            return reports.publish_help(depot, run_id, plan_id, None if dry_run else [])

        with depots.lease(depot, f"transcode_videos/{uuid4().hex}") as lease:
            outcomes = transcodes.compress_planned(depot, lease, plan_id)
            if inherited := plans.inherit(depot, lease, plan_id):
                reports.publish(depot, *inherited)
        report = reports.publish_help(depot, run_id, plan_id, outcomes)
    return report.require_whole()
