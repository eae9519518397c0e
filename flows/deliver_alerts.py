"""Deliver the messages that wait in the outbox."""

import time
from typing import Annotated, Final

from prefect import flow
from pydantic import Field

from reelkeeper.rules.lifecycle.report import DeliveryReport
from tasks import alerts, runs
from tasks.runs import DryRun, FieldHelp

_LEAST_SECONDS: Final = 30.0  # reserved for webhooks, however long Slack takes


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def deliver_alerts(
    seconds: Annotated[int, Field(ge=1, le=3600), FieldHelp("Seconds to send for, at most")] = 240,
    follow: Annotated[bool, FieldHelp("Keep sending new events to webhooks until then")] = False,
    dry_run: DryRun = True,
) -> DeliveryReport:
    """Send the messages that wait in the outbox, for at most `seconds`. A dry run only lists them.

    A message that Slack refuses, or has not accepted for 15 minutes, goes to the second sink; the run then fails with
    the counts. Messages that still wait are tried again by the next run. Runs that failed or crashed within six hours
    are reported, if that was missed. Afterwards, events are sent to the webhook endpoints. If the bucket is public
    through Cloudflare's cache, deleted objects are purged from that cache. Vendors are asked to delete what they have
    of erased users, and of videos that were taken down.
    """
    run_id = runs.run_id()

    with runs.store() as engine:
        if dry_run:
            return alerts.preview(engine, run_id)
        begun = time.monotonic()
        if server := runs.server():
            alerts.report_runs(engine, server)
        # guard outages.alerts_first: alerts wait while Cloudflare, or a vendor, does not answer or limits our rate
        delivered = alerts.deliver(engine, seconds=seconds)
        alerts.purge_cache(engine, run_id)
        alerts.erase_at_vendors(engine, run_id)
        left = max(_LEAST_SECONDS, seconds - (time.monotonic() - begun))
        alerts.tell_webhooks(engine, seconds=left, follow=follow)
    return alerts.report(run_id, delivered).require_complete()
