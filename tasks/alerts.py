"""Alerts: the findings of a monitoring flow, and the resulting messages."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.client.schemas import StateType
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging import get_run_logger

from reelkeeper.model.alerts import Finding
from reelkeeper.operations import Engine
from reelkeeper.operations.alerts import alerts, outbox, webhooks
from reelkeeper.operations.alerts.alerts import EndedRun, Observed
from reelkeeper.operations.alerts.outbox import Delivered, configured_sinks
from reelkeeper.operations.lifecycle import cache_purge
from reelkeeper.operations.removals import at_vendors
from reelkeeper.rules.alerts.alerting import Trouble
from reelkeeper.rules.lifecycle.report import DeliveryReport
from reelkeeper.settings import settings
from tasks import step

_LOOKED_BACK: Final = timedelta(hours=6)
_MAX_RUNS: Final = 100


@step("record findings")
def observe(
    engine: Engine,
    findings: Sequence[Finding],
    *,
    rules: Collection[str],
    run_id: str,
) -> Observed:
    """Record the findings of the evaluated rules; new and resolved alerts go into the outbox."""
    observed = alerts.observe(engine, findings, rules=rules, run_id=run_id)
    get_run_logger().info("%d findings: %s", len(findings), observed)
    return observed


@step("report runs that ended badly")
def report_runs(engine: Engine) -> None:
    """Report runs that failed or crashed in the last hours: Prefect's server may have called an API that was away.

    Prefect calls once. After its own restart it holds an event back for 15 minutes where it has forgotten the one
    before it (`prefect.server.events.ordering`). A run that is reported already is no news, nor one that succeeded
    since.
    """
    after = FlowRunFilterEndTime(after_=datetime.now(UTC) - _LOOKED_BACK)
    badly = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.FAILED, StateType.CRASHED]))
    of_deployments = FlowRunFilterDeploymentId(is_null_=False)  # others show their error to a person
    wanted = FlowRunFilter(state=badly, end_time=after, deployment_id=of_deployments)
    try:
        with get_client(sync_client=True) as client:
            found = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.END_TIME_DESC, limit=_MAX_RUNS)
            flows = {flow_id: client.read_flow(flow_id).name for flow_id in {run.flow_id for run in found}}
    except HTTPError as error:
        get_run_logger().warning("Prefect's server did not list the runs that ended badly: %s", type(error).__name__)
        return
    ended = [
        EndedRun(
            Trouble(run.state.type.lower()), flows[run.flow_id], str(run.id), run.name, run.state.message or "", at
        )
        for run in found
        if run.state and (at := run.end_time)
    ]
    if news := alerts.report_runs(engine, ended, ui_url=settings().ui_url):
        get_run_logger().warning("%d alerts of runs that ended badly had not reached the API", news)


@step("deliver the outbox")
def deliver(engine: Engine, *, seconds: float = 60) -> Delivered:
    """Send the messages in the outbox. Messages that fail stay there, and the calling flow does not fail."""
    delivered = outbox.deliver(engine, configured_sinks(settings()), seconds=seconds)
    level = "warning" if delivered.error else "info"
    getattr(get_run_logger(), level)("%s", delivered)
    return delivered


@step("send events to webhooks")
def tell_webhooks(engine: Engine, *, seconds: float, follow: bool) -> None:
    """Send events to webhook endpoints. Events that fail are retried later, and do not fail the run."""
    allow = settings().allow_private_addresses
    deliveries = webhooks.deliver(engine, allow_private=allow, seconds=seconds, follow=follow)
    get_run_logger().info("%s", deliveries)


def purge_cache(engine: Engine, run_id: str) -> None:
    """Purge deleted objects from the CDN's cache, if the bucket is public through one."""
    if settings().cache_zone_id:
        _purge_cache(engine, run_id)


@step("purge the CDN's cache")
def _purge_cache(engine: Engine, run_id: str) -> None:
    count = cache_purge.catch_up(engine, settings(), run_id)
    if count is not None:
        get_run_logger().info("purged %d deleted objects from the CDN's cache", count)


def erase_at_vendors(engine: Engine, run_id: str) -> None:
    """Ask vendors to delete what they have of erased users and of videos that were taken down, if they have any."""
    if at_vendors.waits(engine):
        _erase_at_vendors(engine, run_id)


@step("have vendors delete")
def _erase_at_vendors(engine: Engine, run_id: str) -> None:
    at_vendors.catch_up(engine, settings(), run_id)


@step("preview the outbox")
def preview(engine: Engine, run_id: str) -> DeliveryReport:
    """Report the waiting messages, without sending them."""
    count, titles = outbox.preview(engine, limit=20)
    return DeliveryReport("deliver_alerts", run_id, dry_run=True, waiting=count, titles=titles)


def report(run_id: str, delivered: Delivered) -> DeliveryReport:
    """Report how many messages were sent, diverted, failed, or still wait."""
    return DeliveryReport(
        "deliver_alerts",
        run_id,
        dry_run=False,
        sent=delivered.sent,
        diverted=delivered.diverted,
        copied=delivered.copied,
        failed=delivered.failed,
        waiting=delivered.waiting,
        error=delivered.error,
    )
