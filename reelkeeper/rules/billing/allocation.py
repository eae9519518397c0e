"""Allocate a month's bill to days, services and users, with a residual that makes the charges sum to the bill.

A day's bill is the month's bill up to that day less the bill up to the day before, so allowances and rounding
count on the days on which they occur. A user's row is the user's usage at list price. The residual, the row of user "",
is the rest: the allowances, the rounding, usage without a known user, and a vendor's charge beyond the expected cost of
a job.

Months are calendar months in UTC, and a GB-month is a GB for all days of one; Cloudflare's periods have 30 days.
"""

from calendar import monthrange
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache, partial
from itertools import chain
from typing import Final, NamedTuple

from reelkeeper.model.money import NANO, NANO_IN_MICRO, Charge, Metric, StorageClass, UsageSource, Used
from reelkeeper.rules.billing import pricing
from reelkeeper.rules.billing.pricing import InfrequentAccessUsage, StandardUsage, Usage, gb_months
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.tariff import GB, MILLION, PRICE_BOOK, RATES, class_of

CLOUDFLARE: Final = "Cloudflare"  # as its own bill names it
STORAGE, CLASS_A, CLASS_B, RETRIEVAL = "r2-storage", "r2-class-a", "r2-class-b", "r2-retrieval"
COMPUTE, API = "compute", "api"
MAKING: Final = frozenset({COMPUTE, API})  # the services for generation
MICRO_DOLLARS: Final = "Micro-dollars"  # the unit of clips that a vendor charges by
OF_CLIPS: Final = (Metric.JOB_MICROUSD, Metric.JOB_REBATE_MICROUSD)
CHARGED: Final = (
    Metric.STORED_BYTES,
    Metric.OPERATIONS,
    Metric.RETRIEVED_BYTES,
    Metric.JOBS,
    Metric.CLIP_JOBS,
    *OF_CLIPS,
)
_ONE_DAY: Final = timedelta(days=1)


class LineItem(NamedTuple):
    """A billed item. `nanousd` is the list price of one `unit`."""

    sku: str
    service: str
    unit: str
    nanousd: Fraction
    price_book: str
    provider: str


class ComputedCharge(NamedTuple):
    """The account's usage of one item on one day, at list price, and what it added to the month's bill."""

    day: date
    item: LineItem
    quantity: int
    list_nanousd: int
    billed_nanousd: int
    estimated: bool


def compute_charges(account: Iterable[Used], book: PriceBook, month: date, today: date) -> list[ComputedCharge]:
    """Price the account's usage on each day of `month` up to `today`; the last days are still estimates.

    `account` may have earlier days: the last known stored bytes are the estimate for a day without a figure. Where
    Cloudflare has figures, they are used, else the store's own, whose operations are an estimate, as it cannot see
    others' requests.
    """
    days_in_month = monthrange(month.year, month.month)[1]
    last = min(today, month.replace(day=days_in_month))
    line_items = line_items_of(days_in_month, book)
    found: list[ComputedCharge] = []
    used, listed, billed, rebates = (Counter[LineItem]() for _ in range(4))
    for day, rows in _by_day(flat(account), month, last):
        amounts, estimates = defaultdict[LineItem, int](int), set[LineItem]()
        for usage in rows:
            for item in line_items(usage):
                amounts[item] += usage.quantity
                rebates[item] += rebate_of(usage)
                guessed = usage.day < day or (usage.metric, usage.source) == (Metric.OPERATIONS, UsageSource.STORE)
                if usage.sampled or guessed or day >= today:
                    estimates.add(item)
        used.update(amounts)
        bills = _bills(used, days_in_month)
        for item in amounts:
            at_list = round(used[item] * item.nanousd)
            parts = (at_list - listed[item], bills.get(item.sku, at_list - rebates[item]) - billed[item])
            found.append(ComputedCharge(day, item, amounts[item], *parts, item in estimates))
            listed[item] += parts[0]
            billed[item] += parts[1]
    return found


def share(
    computed: Iterable[ComputedCharge], users: Iterable[Used], tiers: Mapping[str, str | None], book: PriceBook
) -> Iterator[Charge]:
    """Split each day's charges by user, at list price; the rest of the day's bill goes to user "".

    `users` is the users' usage on the days of `computed`; other days are ignored. The charges of a day and item sum to
    those computed for it: in quantity, list price and bill.
    """
    pricing_of = cache(partial(line_items_of, book=book))
    parts = defaultdict[tuple[date, str], Counter[str]](Counter)
    rebates = Counter[tuple[date, str, str]]()
    for usage in flat(users):
        for item in pricing_of(monthrange(usage.day.year, usage.day.month)[1])(usage):
            parts[usage.day, item.sku][usage.user_id] += usage.quantity
            rebates[usage.day, item.sku, usage.user_id] += rebate_of(usage)
    for day, item, quantity, listed, billed, estimated in computed:
        used = parts[day, item.sku]
        rows = [
            (user_id, part, cost := round(part * item.nanousd), cost - rebates[day, item.sku, user_id])
            for user_id, part in sorted(used.items())
        ]
        left = quantity - sum(part for _, part, _, _ in rows)
        rest = ("", left, listed - sum(cost for _, _, cost, _ in rows), billed - sum(bill for *_, bill in rows))
        for user_id, part, cost, bill in [*rows, rest]:
            yield Charge(
                day,
                item.service,
                item.sku,
                user_id,
                tiers.get(user_id),
                part,
                item.unit,
                cost,
                bill,
                item.price_book,
                estimated,
                item.provider,
            )


def rebate_of(usage: Used) -> int:
    """Return by how many nano-dollars a provider charged less than the list price; negative: more."""
    return usage.quantity * NANO_IN_MICRO if usage.metric == Metric.JOB_REBATE_MICROUSD else 0


def _by_day(account: Iterable[Used], month: date, last: date) -> Iterator[tuple[date, list[Used]]]:
    """Return the rows used for each day: those of one source, and the last known stored bytes if it has none."""
    counted = believed(account)
    earlier = [day for day, metric in counted if metric == Metric.STORED_BYTES and day < month]
    stored = counted[max(earlier), Metric.STORED_BYTES] if earlier else []
    day = month
    while day <= last:
        stored = counted.get((day, Metric.STORED_BYTES), stored)
        others = (counted.get((day, metric), []) for metric in CHARGED if metric != Metric.STORED_BYTES)
        yield day, [*stored, *chain.from_iterable(others)]
        day += _ONE_DAY


def flat(used: Iterable[Used]) -> Iterator[Used]:
    """Reduce each number of jobs to those at a flat price: the others are charged by their clips."""
    known = list(used)
    by_clip = {_of_jobs(row): row.quantity for row in known if row.metric == Metric.CLIP_JOBS}
    for row in known:
        # guard charges.by_clip: a job is charged by its clip, and again at a flat price
        clips = by_clip.get(_of_jobs(row), 0) if row.metric == Metric.JOBS else 0
        if not clips or row.quantity > clips:
            yield row._replace(quantity=row.quantity - clips)


def _of_jobs(row: Used) -> tuple[date, str, str, str]:
    return row.day, row.resource, row.user_id, row.provider


def believed(used: Iterable[Used]) -> dict[tuple[date, Metric], list[Used]]:
    """Group usage by day and metric. Where both have a count, Cloudflare's is used, as it charges by it."""
    sources: defaultdict[tuple[date, Metric], dict[UsageSource, list[Used]]] = defaultdict(dict)
    for usage in used:
        sources[usage.day, usage.metric].setdefault(usage.source, []).append(usage)
    return {key: by.get(UsageSource.CLOUDFLARE) or by[UsageSource.STORE] for key, by in sources.items()}


def line_items_of(days_in_month: int, book: PriceBook) -> Callable[[Used], tuple[LineItem, ...]]:
    """Make a function that returns the line items of a use, with their prices in months of this length."""
    known: dict[tuple[str, ...], tuple[LineItem, ...]] = {}

    def line_items(usage: Used) -> tuple[LineItem, ...]:
        kind = (usage.metric, usage.resource, usage.storage_class, usage.provider)
        if kind not in known:
            known[kind] = _line_items(usage, days_in_month, book)
        return known[kind]

    return line_items


def _line_items(usage: Used, days_in_month: int, book: PriceBook) -> tuple[LineItem, ...]:
    """Return the billed items of a use: none, one, or for a job at a flat price its compute and its API."""
    kind = StorageClass(usage.storage_class or StorageClass.STANDARD)
    rates = RATES[kind]
    if usage.metric == Metric.STORED_BYTES:
        return (_r2(STORAGE, kind, "Byte-Days", rates.storage_usd_per_gb_month, GB * days_in_month),)
    if usage.metric == Metric.RETRIEVED_BYTES:
        return (_r2(RETRIEVAL, kind, "Bytes", rates.retrieval_usd_per_gb, GB),)
    if usage.metric == Metric.OPERATIONS:
        classes = {"A": (CLASS_A, rates.class_a_usd_per_million), "B": (CLASS_B, rates.class_b_usd_per_million)}
        billed_in = class_of(usage.resource)
        return (_r2(classes[billed_in][0], kind, "Operations", classes[billed_in][1], MILLION),) if billed_in else ()
    made = ":".join(filter(None, (usage.provider, usage.resource)))
    if usage.metric in OF_CLIPS:  # of an SKU apart, beside flat prices
        nanousd = Fraction(NANO_IN_MICRO)
        return (LineItem(f"clips-{made}", API, MICRO_DOLLARS, nanousd, book.mark, usage.provider),)
    if usage.metric == Metric.JOBS:
        price, suffix = book.flat_price(usage.resource), f"-{made}" if made else ""
        return tuple(
            LineItem(f"{name}{suffix}", name, "Jobs", Fraction(usd) * NANO, book.mark, usage.provider)
            for name, usd in ((COMPUTE, price.compute_usd), (API, price.api_usd))
        )
    return ()


def _r2(service: str, kind: StorageClass, unit: str, usd: Decimal, units: int) -> LineItem:
    return LineItem(pricing.sku(service, kind), service, unit, Fraction(usd) * NANO / units, PRICE_BOOK, CLOUDFLARE)


def _bills(used: Mapping[LineItem, int], days_in_month: int) -> dict[str, int]:
    """Price the month's usage of R2 so far, as Cloudflare would: nano-dollars of each SKU."""
    by_sku = {item.sku: quantity for item, quantity in used.items()}

    def so_far(service: str, kind: StorageClass) -> int:
        return by_sku.get(pricing.sku(service, kind), 0)

    def months(kind: StorageClass) -> Decimal:
        return gb_months([so_far(STORAGE, kind)], days_in_month)

    kept, cold = StorageClass.STANDARD, StorageClass.INFREQUENT_ACCESS
    usage = Usage(
        standard=StandardUsage(gb_month=months(kept), class_a=so_far(CLASS_A, kept), class_b=so_far(CLASS_B, kept)),
        infrequent_access=InfrequentAccessUsage(
            gb_month=months(cold),
            class_a=so_far(CLASS_A, cold),
            class_b=so_far(CLASS_B, cold),
            retrieval_gb=gb_months([so_far(RETRIEVAL, cold)]),
        ),
    )
    return {line.sku: int(line.billed_usd * NANO) for line in pricing.bill(usage).lines}
