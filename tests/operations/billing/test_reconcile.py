"""Charges compared with Cloudflare's bill, which may be unknown."""

from datetime import date
from decimal import Decimal

import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.cloudflare import Client
from reelkeeper.model.money import Charge, Metric, UsageSource, Used
from reelkeeper.operations.billing.metering import reconcile
from reelkeeper.store.billing.charges import replace
from reelkeeper.store.billing.usage import record
from reelkeeper.store.core.engine import transaction
from tests.doubles.cloudflare import CloudflareDouble, billable_row
from tests.marks import marked

FIRST, LAST = date(2026, 11, 1), date(2026, 11, 30)


def arrange(engine: sa.Engine) -> None:
    ours = Used(FIRST, Metric.STORED_BYTES, 10)
    with transaction(engine, "test") as session:
        record(session, [ours, ours._replace(quantity=12, resource="bucket", source=UsageSource.CLOUDFLARE)])
        rows = [
            Charge(FIRST, service, service, "", None, 1, "Jobs", 5 * 10**9, 5 * 10**9, "book")
            for service in ("r2-class-a", "compute")
        ]
        replace(session, [FIRST], rows)


def test_without_a_token_the_usage_is_compared_and_the_bill_is_not_known(engine: sa.Engine) -> None:
    arrange(engine)
    found = reconcile(engine, None, FIRST, LAST)
    assert [difference.difference for difference in found.usage.differences] == [2]
    assert (found.charged_usd, found.billed_by_cloudflare_usd) == (Decimal(5), None)  # compute is not Cloudflare's
    assert "REELKEEPER_CLOUDFLARE_API_TOKEN" in found.trouble


def test_if_cloudflare_refuses_the_reason_is_reported(
    engine: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    cloudflare.permissions = frozenset()
    found = reconcile(engine, client, FIRST, LAST)
    assert found.billed_by_cloudflare_usd is None
    assert "Billing: Read" in found.trouble


def test_a_bill_without_amounts_is_not_taken_for_nothing(engine: sa.Engine, client: Client) -> None:
    found = reconcile(engine, client, FIRST, LAST)
    assert found.billed_by_cloudflare_usd is None
    assert marked(found.trouble) == snapshot("Cloudflare reports no charges for these days")


def test_a_bill_with_an_unknown_amount_is_not_taken_for_the_rest(
    engine: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    rows = [billable_row(f"2026-11-0{day}", "R2 Data Storage", 12, "GB-months", 0.25) for day in (1, 2)]
    cloudflare.billable = [rows[0], rows[1] | {"BilledCost": None}]
    found = reconcile(engine, client, FIRST, LAST)
    assert (found.billed_by_cloudflare_usd, bool(found.trouble)) == (None, True)


def test_cloudflares_r2_bill_is_compared_with_our_charges(
    engine: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    arrange(engine)
    cloudflare.billable = [
        billable_row("2026-11-01", "R2 Storage Class A Operations (First 1M included)", 1_200_000, "Count", 4.5),
        billable_row("2026-11-02", "R2 Data Storage (First 10GB-Month included)", 12, "GB-months", 0.25),
    ]
    found = reconcile(engine, client, FIRST, LAST)
    assert (found.charged_usd, found.billed_by_cloudflare_usd, found.trouble) == (Decimal(5), Decimal("4.75"), "")
