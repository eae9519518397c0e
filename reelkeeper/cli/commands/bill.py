"""`bill`: show a month's costs and their allocation; `forecast`: its expected total; `report`: all on one page.

`bill` also prices a usage document, and compares our account with a vendor's.
"""

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from reelkeeper.cli.opening import reading, store
from reelkeeper.cli.screen import emit, out, say, show, table
from reelkeeper.cli.words import AsJson, Limit, moment, month_of
from reelkeeper.model.money import NANO_IN_MICRO, end_of_month, next_month
from reelkeeper.rules.billing.focus import DETAIL, RESIDUAL, detail, exact_usd, period, provider_name

if TYPE_CHECKING:
    from reelkeeper.operations import Session
    from reelkeeper.operations.billing.users import ByUser

By = Literal["user", "service", "provider", "day"]
Month = Annotated[str | None, typer.Option(metavar="YYYY-MM", help="The month, YYYY-MM; default: the current one.")]
Account = Literal["cloudflare", "fal", "replicate", "runway", "openai"]
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_KEYS: Mapping[By, tuple[str, ...]] = {
    "user": ("x_UserId", "x_UserTier"),
    "service": ("ServiceName",),
    "provider": ("ProviderName",),
    "day": ("ChargePeriodStart", "ChargePeriodEnd"),
}
_SUMS = ("ListCost", "BilledCost", "x_Estimated")
_BILLING = ("BillingPeriodStart", "BillingPeriodEnd", "BillingCurrency")
_OF_USER = ("x_BilledCostByProvider", "x_PaidCredits")
_NAMED_DAYS = 5  # missing days to list


def bill(
    usage: Annotated[
        str | None, typer.Option(metavar="FILE", help="Price this usage document in JSON; - reads standard input.")
    ] = None,
    month: Month = None,
    by: Annotated[
        By | None, typer.Option(help="Sum by this; default: by service on screen, single charges as JSON or CSV.")
    ] = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV for a spreadsheet; it and JSON use the column names of FOCUS.")
    ] = False,
    reconcile: Annotated[
        Account | None, typer.Option(help="Compare our account with Cloudflare's, or a video provider's.")
    ] = None,
    end_doubts: Annotated[
        bool,
        typer.Option(
            "--end-doubts",
            help="With --reconcile: let jobs that were never known to arrive, and are not in the provider's account a "
            "day later, no longer count as spent. It asks first.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Show a month's costs so far, as R2 bills them: rounded up to whole units, free allowances deducted."""
    if as_json and as_csv:
        raise typer.BadParameter("give one of --csv and --json")
    if end_doubts and reconcile in (None, "cloudflare"):
        raise typer.BadParameter("--end-doubts needs --reconcile with a video provider")
    if usage is not None:
        if month or by or reconcile or as_csv:
            raise typer.BadParameter("--usage can be combined only with --json")
        from reelkeeper.cli.usage_document import price_document

        price_document(usage, as_json=as_json)
        return
    first, last = _month(month)
    if reconcile:
        if by or as_csv:
            raise typer.BadParameter("--reconcile can be combined only with --month and --json")
        from reelkeeper.cli import reconciliation_view

        if reconcile == "cloudflare":
            reconciliation_view.show_cloudflare(first, last, as_json=as_json)
        else:
            reconciliation_view.show_provider(
                reconcile, first, last, end_doubts=end_doubts, ask=not yes, as_json=as_json
            )
        return

    with reading() as session:
        if as_json or as_csv:
            write_charges(session, by, first, last, as_json=as_json)
        else:
            _show(session, by or "service", first, last, limit)


def _month(text: str | None) -> tuple[date, date]:
    first = month_of(text, datetime.now(UTC))
    return first, end_of_month(first)


def _rows(session: "Session", by: By | None, first: date, last: date) -> Iterator[Mapping[str, object]]:
    from reelkeeper.operations.billing.users import costs_by_user
    from reelkeeper.store.billing import charges

    if by is None:
        yield from map(detail, charges.between(session, first, last))
        return
    billing = (*period(first, next_month(first)), "USD")
    found = costs_by_user(session, first, last) if by == "user" else None
    for total in found.sums if found else charges.sums(session, by, first, last):
        whose: tuple[object, ...] = (total.key,)
        more: tuple[str, ...] = ()
        if found:
            parts = {
                provider_name(name): exact_usd(part) for name, part in found.by_provider.get(total.key, {}).items()
            }
            whose, more = (total.key, total.tier), (json.dumps(parts), _paid_usd(found, total.key))
        elif by == "day":
            day = date.fromisoformat(total.key)
            whose = period(day, day + timedelta(days=1))
        elif by == "provider":
            whose = (provider_name(total.key),)
        amounts = (exact_usd(total.list_nanousd), exact_usd(total.billed_nanousd), total.estimated)
        yield dict(zip(_columns(by), (*billing, *whose, *amounts, *more), strict=True))


def _columns(by: By) -> tuple[str, ...]:
    return (*_BILLING, *_KEYS[by], *_SUMS, *(_OF_USER if by == "user" else ()))


def write_charges(session: "Session", by: By | None, first: date, last: date, *, as_json: bool) -> None:
    """Print the charges of these days, or with `by` their sums, as JSON or CSV with the column names of FOCUS."""
    rows = _rows(session, by, first, last)
    if as_json:
        emit(list(rows))
        return
    lines = csv.DictWriter(sys.stdout, _columns(by) if by else DETAIL, lineterminator="\n")
    lines.writeheader()
    # guard bill.formulas: a spreadsheet runs a user's id as a formula
    lines.writerows({name: _as_text(value) for name, value in row.items()} for row in rows)


def _as_text(value: object) -> object:
    """Put an apostrophe before what a spreadsheet takes for a formula, and is no number (OWASP, "CSV Injection")."""
    is_formula = isinstance(value, str) and value[:1] in set("=+-@") and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def _show(session: "Session", by: By, first: date, last: date, limit: int) -> None:
    from reelkeeper.model.money import Metric
    from reelkeeper.operations.billing.users import costs_by_user
    from reelkeeper.store.billing import charges
    from reelkeeper.store.billing.usage import missing_days

    of_users = costs_by_user(session, first, last) if by == "user" else None
    found = of_users.sums if of_users else charges.sums(session, by, first, last)
    if not found:
        say(f"Nothing is charged for {first:%Y-%m}. The flow monitor_costs collects and charges usage.")
        return
    totals = [sum(total.list_nanousd for total in found), sum(total.billed_nanousd for total in found)]
    if of_users:
        table(*_by_user(of_users, totals, limit))
    else:
        unnamed = provider_name("") if by == "provider" else f"nobody: {RESIDUAL}"
        rows = [(total.key or unnamed, *_sums(total)) for total in found[:limit]]
        table((f"!{by}", ">$ list", ">$ billed", ""), [*rows, ("total", *map(exact_usd, totals), "")])
    if len(found) > limit:
        say(f"These are the first {limit:,} of {len(found):,}; --limit shows more.")
    until = min(last, datetime.now(UTC).date())
    if missing := missing_days(session, Metric.STORED_BYTES, first, until):
        named = ", ".join(map(str, missing[:_NAMED_DAYS])) + (" ..." if len(missing) > _NAMED_DAYS else "")
        say(f"On {len(missing)} of its days the stored bytes were not measured: {named}.")


def _by_user(found: "ByUser", totals: Sequence[int], limit: int) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Lay out a row for each user, with a column for each provider, and the total."""
    names, rows = sorted({name for parts in found.by_provider.values() for name in parts}), list[Sequence[object]]()
    for total in found.sums[:limit]:
        parts = found.by_provider.get(total.key, {})
        costs = [exact_usd(parts[name]) if name in parts else "" for name in names]
        listed, billed, note = _sums(total)
        paid = _paid_usd(found, total.key) if total.key else ""
        rows.append((total.key or f"nobody: {RESIDUAL}", total.tier, *costs, listed, billed, paid, note))
    of_all = [sum(parts.get(name, 0) for parts in found.by_provider.values()) for name in names]
    paid_by_all = sum(found.paid_microusd.values()) * NANO_IN_MICRO
    rows.append(("total", "", *map(exact_usd, (*of_all, *totals, paid_by_all)), ""))
    columns = [f">$ {provider_name(name)}" for name in names]
    return ("user", "tier", *columns, ">$ list", ">$ billed", ">$ paid", ""), rows


def _paid_usd(found: "ByUser", user_id: str) -> str:
    return exact_usd(found.paid_microusd.get(user_id, 0) * NANO_IN_MICRO)


def _sums(item: Any) -> tuple[str, str, str]:  # noqa: ANN401  a Sum, which is not loaded yet
    return exact_usd(item.list_nanousd), exact_usd(item.billed_nanousd), "estimated in part" if item.estimated else ""


def forecast(
    months: Annotated[int, typer.Option(min=1, max=12, help="Number of months, including this one.")] = 3,
    growth: Annotated[
        float | None,
        typer.Option(
            min=-90, max=900, metavar="PERCENT", help="Assume that usage grows by this many percent per month."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast the bill by service, model and provider, with bands that hold 80 and 95 of 100 such months.

    The forecast is not saved.

    Retention and prices are those of the policies in force; usage is counted up to yesterday.
    """
    from reelkeeper.operations.core.policies import current
    from reelkeeper.operations.forecast.forecast import predict_costs, predict_resource_needs
    from reelkeeper.rules.forecast.costs import by_service

    as_of = datetime.now(UTC)
    with store() as engine, out.status("forecasting", spinner="dots"):
        policies = current(engine).policies
        costs = predict_costs(engine, as_of, policies=policies, months=months, growth_percent_per_month=growth)
        needs = predict_resource_needs(engine, as_of, growth_percent_per_month=growth)
    if as_json:
        emit({"as_of": as_of, "growth_percent_per_month": growth, "costs": costs, "next_month": needs})
        return
    show([by_service(costs)])
    if needs.stored_bytes is not None:
        say(f"At the end of {needs.month:%B}: {needs.stored_bytes / 10**9:,.1f} GB stored.")


def report(
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The file to write; an existing one is replaced.")
    ] = Path("report.html"),
    month: Month = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="Report as of this time; UTC without a time zone.")
    ] = None,
) -> None:
    """Write a month's report as one page: spend, bill, forecast, storage, savings, alerts.

    The page is self-contained, so it can be mailed, archived and printed.
    """
    from reelkeeper.operations.reports import text
    from reelkeeper.operations.reports.page import page
    from reelkeeper.operations.reports.report import gather

    at = moment(as_of) or datetime.now(UTC)
    which = month_of(month, at)
    with store() as engine:
        found = gather(engine, which, at)
    written = page(found)
    output.write_text(written, encoding="utf-8")
    say(f"{output}: {which:%B %Y}, {len(written.encode()) / 1000:,.0f} kB. The page is self-contained.")
    if found.trial:
        say(text.trial(found.trial))
