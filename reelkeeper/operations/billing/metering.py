"""Collect usage and charge it: our own count always, and Cloudflare's where there is a token.

`collect` may run any number of times: a peak only grows, and a day is read again until it can no longer change.
`charge` corrects charges that do not match the usage, so a kill between the two needs no repair.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple

from reelkeeper.adapters.cloudflare import KEPT_DAYS, Client
from reelkeeper.errors import TokenRefused, UsageUnknown
from reelkeeper.model.money import Metric, UsageSource
from reelkeeper.operations.billing import limits
from reelkeeper.operations.core import policies
from reelkeeper.rules.billing.allocation import CHARGED, MAKING, ComputedCharge, compute_charges, share
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.reconcile import COMPARED, Comparison, compare
from reelkeeper.rules.spend.watch import LOOKED_BACK_DAYS, Spent
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import charges, job_totals, quotas, spend_counters, usage
from reelkeeper.store.core import deployment
from reelkeeper.store.core import policies as versions
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.forecast import forecasts
from reelkeeper.store.forecast.sampling import note_moved, note_stored

_R2 = "r2-"

CHANGES_FOR = timedelta(days=2)  # how long after a day its usage may still be corrected
_LOOKED_BACK = timedelta(days=7)  # before a month, for the last known stored bytes
_ONE_DAY = timedelta(days=1)
_NANO_IN_MICRO = 1_000


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


def charge(engine: Engine, book: PriceBook, as_of: datetime) -> int:
    """Charge the month of `as_of`, and the one before it while its last days may change; returns the days charged.

    The month before has the prices that were in force at its end: those of the new month do not change its bill.
    """
    day = as_of.date()
    month, before = day.replace(day=1), (day - CHANGES_FOR).replace(day=1)
    charged = 0
    if before < month:
        with reading(engine) as session:
            earlier = policies.at(session, versions.before(session, datetime.combine(month, time(), UTC)))
        charged = charge_month(engine, earlier.book, before, day)
    return charged + charge_month(engine, book, month, day)


def charge_month(engine: Engine, book: PriceBook, month: date, today: date) -> int:
    """Charge each day of a month up to `today` whose charges are missing or stale; returns how many days.

    The last two days are always charged again: the users' shares may change while the sums stay.
    """
    end = (month + 31 * _ONE_DAY).replace(day=1) - _ONE_DAY
    with reading(engine) as session:
        account = usage.days(session, month - _LOOKED_BACK, end, metrics=CHARGED, of_users=False)
        computed = compute_charges(account, book, month, today)
        stale = _stale(computed, charges.settled(session, month, end), today)
        tiers = quotas.tiers(session)
    for day in stale:  # one transaction each, as on SQLite others wait for it
        with transaction(engine, "charges.replace") as session:
            of_users = usage.days(session, day, day, metrics=CHARGED, of_users=True)
            of_day = [cost for cost in computed if cost.day == day]
            charges.replace(session, [day], share(of_day, of_users, tiers, book))
            nanousd = sum(cost.billed_nanousd for cost in of_day if cost.item.service not in MAKING)
            spend_counters.note_charged(session, day, -(-nanousd // _NANO_IN_MICRO))
    return len(stale)


def spent(engine: Engine, as_of: datetime, *, first: date, users: Sequence[str], trouble: str = "") -> Spent:
    """Read the charges since `first`, separately for `users`, the last forecast, and the days that are missing.

    Today is missing only once it is over.
    """
    today = as_of.date()
    with reading(engine) as session:
        return Spent(
            charges.by_scope(session, first, today, users),
            forecasts.latest(session, as_of),
            usage.gaps(session, Metric.STORED_BYTES, today - LOOKED_BACK_DAYS * _ONE_DAY, today - _ONE_DAY),
            trouble,
            limits.uses(session, policies.in_force(session).policies.admission, as_of),
            job_totals.by_day(session, ("provider", "model"), first, today),
        )


def _stale(computed: Iterable[ComputedCharge], settled: Iterable[charges.Settled], today: date) -> list[date]:
    expected = {
        (cost.day, cost.item.sku): (cost.quantity, cost.list_nanousd, cost.billed_nanousd, cost.estimated)
        for cost in computed
    }
    actual = {cost[:2]: cost[2:] for cost in settled}
    wrong = {day for day, sku in expected.keys() | actual.keys() if expected.get((day, sku)) != actual.get((day, sku))}
    return sorted(wrong | {day for day, _ in expected if day >= today - CHANGES_FOR})


def _first_to_ask(session: Session, day: date) -> date:
    """Find the first day to ask Cloudflare for: one without an answer, or one that was not over when it answered."""
    oldest = day - (KEPT_DAYS - 1) * _ONE_DAY
    source = UsageSource.CLOUDFLARE
    known = {
        item.day
        for item in usage.days(session, oldest, day, metrics=[Metric.STORED_BYTES], source=source, of_users=False)
    }
    missing = usage.missing_days(session, Metric.STORED_BYTES, oldest, day, source)
    return max(oldest, min([*missing, max(known, default=oldest) - CHANGES_FOR]))


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
