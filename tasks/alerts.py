"""Alerts: the findings of a monitoring flow, and the resulting messages."""

from collections.abc import Collection, Sequence

from prefect.logging import get_run_logger

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import OrchestratorError
from reelkeeper.model.alerts import Finding
from reelkeeper.operations import Engine
from reelkeeper.operations.alerts import alerts, outbox, webhooks
from reelkeeper.operations.alerts.alerts import Observed
from reelkeeper.operations.alerts.outbox import Delivered, configured_sinks
from reelkeeper.operations.lifecycle import cache_purge
from reelkeeper.operations.removals import at_vendors
from reelkeeper.rules.lifecycle.report import DeliveryReport
from reelkeeper.settings import settings
from tasks import step

_PURGE_SECONDS = 60.0  # after which the rest is left to the next run: webhooks wait


@step("record findings")
def observe(
    engine: Engine,
    findings: Sequence[Finding],
    *,
    rules: Collection[str],
    run_id: str,
    unjudged: Collection[tuple[str, str]] = (),
) -> Observed:
    """Record the findings of the evaluated rules; new and resolved alerts go into the outbox."""
    observed = alerts.observe(engine, findings, rules=rules, run_id=run_id, unjudged=unjudged)
    get_run_logger().info("%d findings: %s", len(findings), observed)
    return observed


@step("report runs that ended badly")
def report_runs(engine: Engine, server: Orchestrator) -> None:
    """Report runs that ended badly, and that nobody has reported. Without an answer, the next run asks again."""
    try:
        alerts.report_runs(engine, server, ui_url=settings().ui_url)
    except OrchestratorError as error:
        get_run_logger().warning("%s", error)


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
    count = cache_purge.catch_up(engine, settings(), run_id, seconds=_PURGE_SECONDS)
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
