"""Views that nobody had to report: how often Cloudflare says that each object was read."""

from contextlib import closing

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.adapters import cloudflare
from reelkeeper.errors import Misconfigured, TokenRefused, UsageUnknown
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos.views import ReadsOfDay, days_to_import, import_reads
from reelkeeper.settings import settings


@task(task_run_name="bring in the reads of past days", cache_policy=NO_CACHE)
def bring_in_reads(workspace: Workspace) -> list[ReadsOfDay]:
    """Import each past day that is not complete. What Cloudflare does not say stays unknown, and keeps videos."""
    client = cloudflare.connect(settings())
    if client is None:
        raise Misconfigured("reads_are_views needs REELKEEPER_CLOUDFLARE_API_TOKEN, whose account counts the reads")
    log, found = get_run_logger(), []
    with closing(client):
        for day in days_to_import(workspace.engine):
            try:
                found.append(import_reads(workspace.engine, client, settings().analytics_bucket, day, complete=True))
            except (TokenRefused, UsageUnknown) as error:
                log.warning("the reads of %s and later stay unknown: %s", day, error)
                break
            if found[-1].doubt:
                log.warning("the views of %s are not complete: %s", day, found[-1].doubt)
    log.info("the reads of %d days are in", len(found))
    return found
