"""`bill`: what a month costs, and who or what it goes to; a usage document priced; our count against a vendor's."""

import csv
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import emit, say, table
from reelkeeper.cli.words import month_of
from reelkeeper.rules.billing.focus import DETAIL, RESIDUAL, detail, exact_usd, next_month, period

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

By = Literal["user", "service", "day"]
Account = Literal["cloudflare", "fal", "replicate", "runway", "openai"]
_KEYS: Mapping[By, tuple[str, ...]] = {
    "user": ("x_UserId", "x_UserTier"),
    "service": ("ServiceName",),
    "day": ("ChargePeriodStart", "ChargePeriodEnd"),
}
_SUMS = ("ListCost", "BilledCost", "x_Estimated")
_BILLING = ("BillingPeriodStart", "BillingPeriodEnd", "BillingCurrency")
_NAMED_DAYS = 5  # of those that are missing


def bill(
    usage: Annotated[
        str | None, typer.Option(metavar="FILE", help="Price this usage document, JSON; - is standard input.")
    ] = None,
    month: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="This month, and not the present one.")] = None,
    by: Annotated[By | None, typer.Option(help="Add up by this; without, services or all charges.")] = None,
    form: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", help="json and csv name columns as FOCUS does.")
    ] = "table",
    reconcile: Annotated[
        Account | None, typer.Option(help="Compare our own account with Cloudflare's, or a provider's of videos.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of a table to show.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Show what a month costs so far, as R2 bills it: rounded up to whole units, free allowances taken off."""
    if as_json:
        if form == "csv":
            raise typer.BadParameter("give one of --format csv and --json")
        form = "json"
    if usage is not None:
        if month or by or reconcile or form == "csv":
            raise typer.BadParameter("--usage goes with --json and nothing else")
        from reelkeeper.cli.usage_document import price_document

        price_document(usage, as_json=form == "json")
        return
    first, last = _month(month)
    if reconcile:
        if by or form == "csv":
            raise typer.BadParameter("--reconcile goes with --month and --json")
        from reelkeeper.cli import reconciliation_view

        if reconcile == "cloudflare":
            reconciliation_view.show_cloudflare(first, last, as_json=form == "json")
        else:
            reconciliation_view.show_provider(reconcile, first, last, as_json=form == "json")
        return
    from reelkeeper.store.core.engine import reading

    with store() as engine, reading(engine) as session:
        if form == "table":
            _show(session, by or "service", first, last, limit)
        else:
            write_charges(session, form, by, first, last)


def _month(text: str | None) -> tuple[date, date]:
    first = month_of(text, datetime.now(UTC))
    return first, next_month(first) - timedelta(days=1)


def _rows(session: "Session", by: By | None, first: date, last: date) -> Iterator[Mapping[str, object]]:
    from reelkeeper.store.billing import charges

    if by is None:
        yield from map(detail, charges.between(session, first, last))
        return
    billing = (*period(first, next_month(first)), "USD")
    for total in charges.sums(session, by, first, last):
        whose: tuple[object, ...] = (total.key,)
        if by == "user":
            whose = (total.key, total.tier)
        elif by == "day":
            day = date.fromisoformat(total.key)
            whose = period(day, day + timedelta(days=1))
        amounts = (exact_usd(total.list_nanousd), exact_usd(total.billed_nanousd), total.estimated)
        yield dict(zip((*_BILLING, *_KEYS[by], *_SUMS), (*billing, *whose, *amounts), strict=True))


def write_charges(session: "Session", form: str, by: By | None, first: date, last: date) -> None:
    """Print the charges of these days, or with `by` their sums, as json or csv under FOCUS's names."""
    rows = _rows(session, by, first, last)
    if form == "json":
        emit(list(rows))
        return
    columns = (*_BILLING, *_KEYS[by], *_SUMS) if by else DETAIL
    lines = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)


def _show(session: "Session", by: By, first: date, last: date, limit: int) -> None:
    from reelkeeper.model.money import Metric
    from reelkeeper.store.billing import charges
    from reelkeeper.store.billing.usage import missing_days

    found = charges.sums(session, by, first, last)
    if not found:
        say(f"Nothing is charged for {first:%Y-%m}. The flow monitor_costs collects what was used and charges it.")
        return
    rows: list[tuple[object, ...]] = [
        (total.key or f"nobody: {RESIDUAL}", *([total.tier] if by == "user" else []), *_sums(total))
        for total in found[:limit]
    ]
    whole = [sum(total.list_nanousd for total in found), sum(total.billed_nanousd for total in found)]
    rows.append(("total", *([""] if by == "user" else []), *map(exact_usd, whole), ""))
    table((f"{'!' if by != 'user' else ''}{by}", *(["tier"] if by == "user" else []), ">$ list", ">$ billed", ""), rows)
    if len(found) > limit:
        say(f"The first {limit:,} of {len(found):,}; --limit shows more.")
    until = min(last, datetime.now(UTC).date())
    if missing := missing_days(session, Metric.STORED_BYTES, first, until):
        named = ", ".join(map(str, missing[:_NAMED_DAYS])) + (" ..." if len(missing) > _NAMED_DAYS else "")
        say(f"On {len(missing)} of its days nobody looked how much was stored: {named}.")


def _sums(item: Any) -> tuple[str, str, str]:  # noqa: ANN401  a Sum, which is not loaded yet
    return exact_usd(item.list_nanousd), exact_usd(item.billed_nanousd), "estimated in part" if item.estimated else ""
