"""Collect usage and charge it: our own count always, and Cloudflare's where there is a token.

`collect` may run any number of times: a peak only grows, and a day is read again until it can no longer change.
`charge` corrects charges that do not match the usage, so a kill between the two needs no repair.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from reelkeeper.adapters.cloudflare import KEPT_DAYS, Client
from reelkeeper.errors import SchemaError, TokenRefused, UsageUnknown
from reelkeeper.model.money import NANO_IN_MICRO, Metric, UsageSource, each_day, end_of_month, next_month
from reelkeeper.operations.billing import limits
from reelkeeper.operations.core import policies
from reelkeeper.rules.billing.allocation import (
    CHARGED,
    MAKING,
    MICRO_DOLLARS,
    OF_CLIPS,
    ComputedCharge,
    LineItem,
    compute_charges,
    share,
)
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.reconcile import COMPARED, Comparison, compare
from reelkeeper.rules.spend.watch import LOOKED_BACK_DAYS, Spent
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import charge_reports, charges, job_totals, quotas, spend_counters, usage
from reelkeeper.store.core import deployment
from reelkeeper.store.core import policies as versions
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.forecast import forecasts
from reelkeeper.store.forecast.sampling import note_moved, note_stored

_R2, _CLOUDFLARE = "r2-", UsageSource.CLOUDFLARE
_log = logging.getLogger(__name__)

CHANGES_FOR = timedelta(days=2)  # how long after a day its usage may still be corrected
_ROLLED_UP_AT_ONCE = 10  # days in a run: many are left where an earlier version kept them all
_LEARNED_WITHIN = timedelta(days=700)  # usage is kept for 800 days and longer
_LOOKED_BACK = timedelta(days=7)  # before a month, for the last known stored bytes
_ONE_DAY = timedelta(days=1)


class Collected(NamedTuple):
    """The result of a collection. `missing` are days of this month without a figure for the stored bytes.

    `trouble` is the reason why Cloudflare did not answer; then our own count is used.
    """

    day: date
    missing: tuple[date, ...]
    trouble: str = ""


def sample_storage(engine: Engine) -> None:
    """Record the bytes stored now, by the database's clock, and those added and removed on this and earlier days."""
    with transaction(engine, "usage.sample") as session:
        day = now(session).date()
        note_stored(session, day)
        began = deployment.made_at(session).date()
        missing = usage.missing_days(session, Metric.UPLOADED_BYTES, max(began, day - KEPT_DAYS * _ONE_DAY), day)
        note_moved(session, min([day - CHANGES_FOR, *missing]), day)


def collect(engine: Engine, client: Client | None, as_of: datetime) -> Collected:
    """Bring usage up to date, from the catalogue, and from Cloudflare if there is a client."""
    day, trouble = as_of.date(), ""
    sample_storage(engine)
    if client is not None:
        with reading(engine) as session:
            first = _first_to_ask(session, day)
        try:
            answer = client.usage(first, day)
        except (TokenRefused, UsageUnknown) as error:
            trouble = str(error)
        else:
            with transaction(engine, "usage.import") as session:
                usage.record(session, answer.used)
    with reading(engine) as session:
        missing = usage.missing_days(session, Metric.STORED_BYTES, day.replace(day=1), day)
    return Collected(day, tuple(missing), trouble)


def charge(engine: Engine, book: PriceBook, as_of: datetime) -> list[date]:
    """Charge the month of `as_of` and those before it, and roll up days that are over; returns the days charged.

    A month before has the prices that were in force at its end: those of a new month do not change its bill. Where
    this version of Reelkeeper cannot read them, its bill stays as it is.
    """
    day = as_of.date()
    month = day.replace(day=1)
    charged = [each for before in _months_before(engine, month) for each in _charge_earlier(engine, before, day)]
    charged += charge_month(engine, book, month, day)
    with reading(engine) as session:
        left = charges.open_before(session, day - CHANGES_FOR)  # by an earlier version
    for each in left[:_ROLLED_UP_AT_ONCE]:
        with transaction(engine, "charges.roll_up") as session:
            charges.take_turns(session)
            if charges.roll_up(session, each):
                usage.take_of_users(session, each)
    return charged


def _months_before(engine: Engine, month: date) -> list[date]:
    """List the months before `month` that may lack charges.

    They are the one before it, those since the last charged day, or the first day with usage where none is charged, in
    which no run may have charged, and those of which another cost of clips was learned since: a person may end a doubt,
    or compare a vendor's invoice, months later.
    """
    before, oldest = (month - _ONE_DAY).replace(day=1), (month - _LEARNED_WITHIN).replace(day=1)
    with reading(engine) as session:
        # guard charges.first_run: what was used in the months before the flow's first run is missing from the bill
        last = charge_reports.last_day(session) or usage.first_day(session, CHARGED) or before
        # guard charges.late: what is learned of a vendor's charges after the next month counts in no bill
        found = charge_reports.unlike(session, MICRO_DOLLARS, OF_CLIPS, oldest, before - _ONE_DAY)
    # guard charges.months: months in which the flow was paused are missing from the bill for ever
    each = max(min(last.replace(day=1), before), oldest)
    while each < month:
        found.append(each)
        each = next_month(each)
    return sorted(set(found))


def _charge_earlier(engine: Engine, month: date, today: date) -> list[date]:
    end = next_month(month)
    last = end - _ONE_DAY
    with reading(engine) as session:
        if not any(usage.days(session, month, last, metrics=CHARGED, of_users=False)):
            return []
        try:
            earlier = policies.at(session, versions.before(session, datetime.combine(end, time(), UTC)))
        # guard charges.earlier_prices: for a month nothing is charged, and no budget alerts, after an upgrade
        except SchemaError as error:
            _log.warning("the bill of %s stays as it is, and gets no late charges: %s", f"{month:%Y-%m}", error)
            return []
        is_open = any(each >= month for each in charges.open_before(session, end))
        is_whole = bool(charge_reports.settled(session, last, last))
    is_over = today - CHANGES_FOR >= end and is_whole and not is_open
    return charge_month(engine, earlier.book, month, today, is_over=is_over)


def charge_month(engine: Engine, book: PriceBook, month: date, today: date, *, is_over: bool = False) -> list[date]:
    """Charge each day of a month up to `today` whose charges are missing or stale; returns these days.

    A day is charged by user until its usage can no longer change. Then it is rolled up: what is learned later is added
    to its sums and to its month's. Of a month that `is_over`, only what vendors take may still change.
    """
    end = end_of_month(month)
    with reading(engine) as session:
        account = usage.days(session, month - _LOOKED_BACK, end, metrics=CHARGED, of_users=False)
        computed = compute_charges(account, book, month, today)
        rolled_up = set(charges.rolled_up(session, month, end))
        recorded = charge_reports.settled(session, month, end)
        if is_over:  # each of its days is rolled up, or was never charged
            computed = [cost for cost in computed if cost.item.service in MAKING]
            recorded = [line for line in recorded if line.service in MAKING]
        stale = _stale(computed, recorded) | ({today} & {cost.day for cost in computed})
        stale |= rolled_up & set(usage.days_of_users(session, month, end))  # of a user, and learned late
        open_days = [] if is_over else charges.open_before(session, today - CHANGES_FOR)
        over = {day for day in open_days if month <= day <= end}
        tiers = quotas.tiers(session) if stale or over else {}
    chosen = sorted(stale | set(sorted(over)[:_ROLLED_UP_AT_ONCE]))
    for day in chosen:  # one transaction each, as on SQLite others wait for it
        of_day = [cost for cost in computed if cost.day == day]
        with transaction(engine, "charges.replace") as session:
            charges.take_turns(session)
            # guard charges.rolled_up_once: two runs that roll up a day charge it twice
            if charges.rolled_up(session, day, day) or (is_over and not charge_reports.settled(session, day, day)):
                changes = _changes(of_day, charge_reports.settled(session, day, day), is_over=is_over)
                charges.adjust(session, day, share(changes, usage.take_of_users(session, day), tiers, book))
            elif day in over:
                charges.replace(session, [day], share(of_day, usage.take_of_users(session, day), tiers, book))
                charges.roll_up(session, day)
            else:
                of_users = usage.days(session, day, day, metrics=CHARGED, of_users=True)
                charges.replace(session, [day], share(of_day, of_users, tiers, book))
            if not is_over:
                nanousd = sum(cost.billed_nanousd for cost in of_day if cost.item.service not in MAKING)
                spend_counters.note_charged(session, day, -(-nanousd // NANO_IN_MICRO))
    return sorted(stale)


def spent(
    engine: Engine,
    as_of: datetime,
    *,
    first: date,
    users: Sequence[str],
    trouble: str = "",
    charged: Sequence[date] = (),
) -> Spent:
    """Read the charges since `first`, separately for `users`, the last forecast, and the days that are missing.

    Today is missing only once it is over. Limits are those of now, and those that were used up when a day or month
    ended since the last check.
    """
    today = as_of.date()
    with reading(engine) as session:
        checked = deployment.beats(session).get("monitor_costs")
        since, admission = checked and checked.last_ok_at.date(), policies.in_force(session).policies.admission
        # guard spend.limits_ended: a limit that refuses jobs between the last check of a day and its end is never told
        over = limits.ended(session, admission, since, as_of) if since else []
        return Spent(
            charge_reports.by_scope(session, first, today, users),
            forecasts.latest(session, as_of),
            usage.gaps(session, Metric.STORED_BYTES, today - LOOKED_BACK_DAYS * _ONE_DAY, today - _ONE_DAY),
            trouble,
            [*limits.uses(session, admission, as_of), *over],
            job_totals.by_day(session, ("provider", "model"), first, today),
            since,
            charged,
        )


def _stale(computed: Iterable[ComputedCharge], recorded: Iterable[charge_reports.Settled]) -> set[date]:
    """Find the days whose charges are not those computed; an item that came to nothing may be left of one."""
    expected = {
        (cost.day, cost.item.sku): (cost.quantity, cost.list_nanousd, cost.billed_nanousd, cost.estimated)
        for cost in computed
    }
    actual = {(line.day, line.sku): line[5:] for line in recorded if (line.day, line.sku) in expected or any(line[5:8])}
    return {day for day, sku in expected.keys() | actual.keys() if expected.get((day, sku)) != actual.get((day, sku))}


def _changes(
    computed: Iterable[ComputedCharge], recorded: Iterable[charge_reports.Settled], *, is_over: bool
) -> Iterator[ComputedCharge]:
    """Work out what a day cost more or less than is recorded, by item."""
    before = {line.sku: line for line in recorded if not is_over or line.service in MAKING}
    for cost in computed:
        line = before.pop(cost.item.sku, None)
        was = line[5:8] if line else (0, 0, 0)
        yield cost._replace(
            quantity=cost.quantity - was[0],
            list_nanousd=cost.list_nanousd - was[1],
            billed_nanousd=cost.billed_nanousd - was[2],
        )
    for line in before.values():
        item = LineItem(line.sku, line.service, line.unit, Fraction(0), "", line.provider)
        yield ComputedCharge(
            line.day, item, -line.consumed_quantity, -line.list_nanousd, -line.billed_nanousd, line.estimated
        )


def _first_to_ask(session: Session, day: date) -> date:
    """Find the first day to ask Cloudflare for: one without an answer, or one that was not over when it answered.

    A day on which we operated and it knows of no operation has no answer either: they may come later than its bytes.
    """
    oldest = day - (KEPT_DAYS - 1) * _ONE_DAY
    found = usage.days(session, oldest, day, metrics=[Metric.STORED_BYTES, Metric.OPERATIONS], of_users=False)
    known = {(item.day, item.metric, item.source) for item in found}
    theirs = {each for each, metric, source in known if (metric, source) == (Metric.STORED_BYTES, _CLOUDFLARE)}
    ours = {each for each, metric, source in known if (metric, source) == (Metric.OPERATIONS, UsageSource.STORE)}
    missing = {each for each in each_day(oldest, day) if each not in theirs}
    # guard charges.late_operations: what others did in the bucket on a day is missing from the bill for ever
    missing |= {each for each in ours if (each, Metric.OPERATIONS, _CLOUDFLARE) not in known}
    return max(oldest, min([*missing, max(theirs, default=oldest) - CHANGES_FOR]))


class Reconciled(NamedTuple):
    """A comparison of usage, and of the R2 lines of the bill so far. None: unknown, `trouble` says why."""

    usage: Comparison
    charged_usd: Decimal
    billed_by_cloudflare_usd: Decimal | None
    trouble: str


def reconcile(engine: Engine, client: Client | None, first: date, last: date) -> Reconciled:
    """Compare the days from `first` to `last`: the recorded usage, and Cloudflare's bill."""
    with reading(engine) as session:
        ours, theirs = (
            list(usage.days(session, first, last, metrics=COMPARED, source=source, of_users=False))
            for source in (UsageSource.STORE, UsageSource.CLOUDFLARE)
        )
        services = charges.sums(session, "service", first, last)
    charged = Decimal(sum(total.billed_nanousd for total in services if total.key.startswith(_R2))).scaleb(-9)
    billed, trouble = _billed(client, first, last)
    return Reconciled(compare(ours, theirs), charged, billed, trouble)


def _billed(client: Client | None, first: date, last: date) -> tuple[Decimal | None, str]:
    if client is None:
        return None, "REELKEEPER_CLOUDFLARE_API_TOKEN is not set, so Cloudflare was not asked"
    try:
        amounts = [line.billed_usd for line in client.billed(first, last)]
    except (TokenRefused, UsageUnknown) as error:
        return None, str(error)
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts) or not amounts:
        return None, "Cloudflare reports no charges for these days"
    return sum(known, Decimal(0)), ""
