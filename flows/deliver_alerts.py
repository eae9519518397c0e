"""What Slack has not heard yet."""

import time
from typing import Annotated, Final

from prefect import flow
from pydantic import Field

from reelkeeper.rules.lifecycle.report import DeliveryReport
from tasks import alerts, runs
from tasks.runs import DryRun, FieldHelp

_LEAST_SECONDS: Final = 30.0  # for the webhooks, however long Slack takes


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def deliver_alerts(
    seconds: Annotated[int, Field(ge=1, le=3600), FieldHelp("How long it sends at most")] = 240,
    follow: Annotated[bool, FieldHelp("Go on telling webhooks what happens until then")] = False,
    dry_run: DryRun = True,
) -> DeliveryReport:
    """Send the messages that wait in the outbox, for at most so many seconds; a dry run only says which.

    What Slack refuses goes to the second sink, and so does what it has not taken for 15 minutes. The run fails then,
    with the counts, and what waits is tried again by the next one. Then the webhooks' endpoints are told what happened.
    Where the bucket is public through Cloudflare's cache, that is told what was deleted.
    """
    run_id = runs.run_id()

    with runs.store() as engine:
        if dry_run:
            return alerts.preview(engine, run_id)
        begun = time.monotonic()
        alerts.purge_cache(engine, run_id)
        delivered = alerts.deliver(engine, seconds=seconds)
        left = max(_LEAST_SECONDS, seconds - (time.monotonic() - begun))
        alerts.tell_webhooks(engine, seconds=left, follow=follow)
    return alerts.report(run_id, delivered).require_whole()
