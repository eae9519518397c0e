"""Compare the bucket with the catalogue, and update the catalogue."""

from dataclasses import replace
from typing import Annotated

from prefect import flow
from pydantic import Field

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.lifecycle import guard
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.report import SyncReport
from reelkeeper.rules.sync.adoption import AdoptionLimits
from tasks import catalogs, reports, runs, videos
from tasks.runs import AsOf, DryRun, FieldHelp, GraceDays, ServiceGraceDays


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def sync_catalog(
    limits: Annotated[BlastRadius | None, Override()] = None,
    adoption: Annotated[AdoptionLimits | None, Override()] = None,
    grace_days: GraceDays = None,
    grace_days_service_keys: ServiceGraceDays = None,
    reads_are_views: Annotated[
        bool, FieldHelp("Import Cloudflare's count of reads as views; only if no CDN is in front of the bucket")
    ] = False,
    shards: Annotated[int, Field(ge=1, le=32), FieldHelp("Parts of the bucket to list in parallel")] = 1,
    dry_run: DryRun = True,
    as_of: AsOf = None,
) -> SyncReport:
    """Adopt new objects, mark videos whose bytes are missing as lost, and note objects without a row.

    A dry run shows what would be adopted, and what would not and why; it writes only notes of unknown objects. No bytes
    are changed: leftovers of killed runs are retired, and purged after a grace. If the key patterns do not fit the
    bucket by the limits of `adoption`, nothing is adopted; everything else is done, and the run fails with the figures.
    With `reads_are_views`, Cloudflare's count of each object's reads becomes the views of past days: use it only
    without a CDN in front of the bucket. `shards` parts of the bucket are listed in parallel.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with runs.workspace() as workspace:
        rules = followed(workspace.engine, limits=limits, adoption=adoption)
        grace = rules.lifecycle.grace.overridden(grace_days, grace_days_service_keys)
        if dry_run:
            found = catalogs.look(workspace, run_id, shards=shards)
            guard.listing_within(rules.limits, found.seen, found.expected, given=runs.given())
            return reports.publish_sync(catalogs.preview(workspace, found, rules.adoption, run_id, as_of))

        with runs.lease(workspace, "sync_catalog") as held:
            catalogs.tell_bucket(workspace)
            settled = catalogs.settle_left_open(workspace, held, run_id=run_id, grace=grace)
            found = catalogs.look(workspace, run_id, shards=shards)
            guard.listing_within(rules.limits, found.seen, found.expected, given=runs.given())
            report = catalogs.reconcile(workspace, held, found, rules.adoption, run_id=run_id, as_of=as_of, grace=grace)
            report = replace(report, settled=settled)
            reports.publish_sync(report)
            if reads_are_views:
                videos.bring_in_reads(workspace)
    return report.require_complete()
