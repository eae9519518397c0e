"""Days that are over are rolled up by user and month: what each user, day and service cost stays the same."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import pytest
import sqlalchemy as sa

from reelkeeper.model.money import Charge, Metric, Mismatch, StorageClass, UsageSource, Used, each_day, next_month
from reelkeeper.operations.billing.metering import CHANGES_FOR, charge
from reelkeeper.rules.billing.allocation import CHARGED, compute_charges, share
from reelkeeper.rules.billing.focus import detail
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.spend.budget import Budget, BudgetPolicy, spans
from reelkeeper.store.billing import charge_reports, charges, recount, usage
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import charge_days, charge_months, usage_days
from reelkeeper.store.tables import charges as open_charges
from reelkeeper.store.tables import users as user_rows

BOOK = PriceBook()
ONE_DAY = timedelta(days=1)
FIRST = date(2026, 5, 28)
MAY = date(2026, 5, 1)
TIERS = {"ann": "pro", "bob": "free", "cid": None}
GB = 10**9
K = TypeVar("K")
V = TypeVar("V")


class Books:
    """A service's usage as it was recorded, kept whole beside the store."""

    def __init__(self, engine: sa.Engine, seed: int) -> None:
        self.engine, self.chance = engine, random.Random(seed)
        self.used = Counter[Used]()
        with transaction(engine, "test") as session:
            session.execute(sa.insert(user_rows), [{"id": name, "tier": tier} for name, tier in TIERS.items()])

    def add(self, *used: Used) -> None:
        """Record usage, and remember it."""
        with transaction(self.engine, "test") as session:
            usage.record(session, used, add=True)
        for one in used:
            self.used[one._replace(quantity=0)] += one.quantity

    def all(self) -> list[Used]:
        return [key._replace(quantity=quantity) for key, quantity in self.used.items()]

    def live(self, day: date) -> None:
        """Store videos, make clips, and learn of what earlier days cost."""
        chance = self.chance
        stored = {name: chance.randrange(40 * GB) for name in TIERS if chance.random() < 0.9}
        rows = [("", sum(stored.values()) + chance.randrange(GB)), *stored.items()]
        self.add(*(Used(day, Metric.STORED_BYTES, size, "", StorageClass.STANDARD, name) for name, size in rows))
        self.add(Used(day, Metric.OPERATIONS, chance.randrange(3 * 10**6), "PutObject"))
        for name in chance.sample(sorted(TIERS), chance.randrange(3)):
            self.clip(day, name)
        if chance.random() < 0.4:  # found late, or taken back; some of a user, most of nobody
            late = day - ONE_DAY * chance.randrange(12)
            cost = chance.randrange(-200_000, 900_000)
            for name in ("", *chance.choice([(), (), ("ann",)])):
                self.add(Used(late, Metric.JOB_MICROUSD, cost, "veo", user_id=name, provider="fal"))
        if chance.random() < 0.2:  # Cloudflare's figure takes the place of ours
            late = day - ONE_DAY * chance.randrange(6)
            theirs = Used(late, Metric.STORED_BYTES, chance.randrange(90 * GB), "b", StorageClass.STANDARD)
            self.add(theirs._replace(source=UsageSource.CLOUDFLARE))

    def live_and_charge(self, days: int) -> None:
        """Live through so many days from the first, each of which is charged."""
        for number in range(days):
            self.live(FIRST + number * ONE_DAY)
            charge(self.engine, BOOK, noon(FIRST + number * ONE_DAY))

    def clip(self, day: date, user: str) -> None:
        cost, rebate = self.chance.randrange(10**6), self.chance.choice([0, 0, 5_000])
        for name in ("", user):
            of_job = Used(day, Metric.JOBS, 1, "veo", user_id=name, provider="fal")
            self.add(of_job, of_job._replace(metric=Metric.CLIP_JOBS))
            self.add(of_job._replace(metric=Metric.JOB_MICROUSD, quantity=cost))
            if rebate:
                self.add(of_job._replace(metric=Metric.JOB_REBATE_MICROUSD, quantity=rebate))

    def expected(self, month: date, today: date) -> list[Charge]:
        """Charge a month from all that was ever recorded, each day by user: as if nothing were rolled up."""
        used = [one for one in self.all() if one.metric in CHARGED]
        computed = compute_charges((one for one in used if not one.user_id), BOOK, month, today)
        of_users = [one for one in used if one.user_id and month <= one.day <= today]
        return list(share(computed, of_users, TIERS, BOOK))


def by_user(rows: Iterable[Charge]) -> dict[tuple[str, str], tuple[int, ...]]:
    found = dict[tuple[str, str], tuple[int, ...]]()
    for row in rows:
        figures = (row.consumed_quantity, row.list_nanousd, row.billed_nanousd)
        before = found.get((row.user_id, row.sku), (0, 0, 0))
        found[row.user_id, row.sku] = tuple(map(sum, zip(before, figures, strict=True)))
    return {key: figures for key, figures in found.items() if any(figures)}


def by_day(rows: Iterable[Charge]) -> dict[tuple[date, str], int]:
    found = Counter[tuple[date, str]]()
    for row in rows:
        found[row.day, row.sku] += row.billed_nanousd
    return {key: amount for key, amount in found.items() if amount}


def recorded(engine: sa.Engine, month: date) -> tuple[list[Charge], dict[tuple[date, str], int]]:
    last = next_month(month) - ONE_DAY
    with reading(engine) as session:
        lines = list(charges.between(session, month, last))
        days = {(row.day, row.sku): row.billed_nanousd for row in charge_reports.settled(session, month, last)}
        assert recount.mismatches(session) == []
    return lines, {key: amount for key, amount in days.items() if amount}


def of_clips(found: dict[tuple[K, str], V]) -> dict[tuple[K, str], V]:
    return {key: value for key, value in found.items() if "clips" in key[1]}


def assert_charged(books: Books, month: date, today: date) -> dict[tuple[date, str], int]:
    """Check what each user, and each day, of a month is charged; return the days' sums."""
    lines, of_days = recorded(books.engine, month)
    expected = books.expected(month, today)
    assert by_user(lines) == by_user(expected)
    assert of_days == by_day(expected)
    return of_days


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def months(first: date, last: date) -> Iterator[date]:
    yield from sorted({day.replace(day=1) for day in each_day(first, last)})


@pytest.fixture
def books(engine: sa.Engine) -> Books:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # noqa: T201  to try it again
    return Books(engine, seed)


@pytest.mark.parametrize("days", [12, pytest.param(75, marks=pytest.mark.long("a run for each of 75 days"))])
def test_users_days_and_services_cost_what_they_would_if_all_were_kept_by_day(books: Books, days: int) -> None:
    """With late costs, Cloudflare's figures, and flows that did not run for some days."""
    for number in range(days):
        today = FIRST + number * ONE_DAY
        books.live(today)
        if books.chance.random() < 0.25 and number < days - 1:
            continue
        charge(books.engine, BOOK, noon(today))
        for month in months(max(FIRST, today - timedelta(days=3)), today):
            assert_charged(books, month, today)


def test_late_costs_of_the_month_before_are_added_to_it_as_long_as_the_next_is_not_over(books: Books) -> None:
    books.live_and_charge(12)
    today = FIRST + 11 * ONE_DAY  # 8 June
    lines, _ = recorded(books.engine, MAY)
    late = Used(date(2026, 5, 29), Metric.JOB_MICROUSD, -12_345, "kling", provider="fal")  # the first of its model
    books.add(late)
    for _ in range(2):  # once, however often it is charged
        charge(books.engine, BOOK, noon(today))
        now, of_days = recorded(books.engine, MAY)
        expected = books.expected(MAY, today)
        assert of_clips(of_days) == of_clips(by_day(expected))
        found, before, made = map(by_user, (now, lines, expected))
        assert found == {key: (made if "clips" in key[1] else before)[key] for key in made.keys() | before.keys()}
        assert sum(row.billed_nanousd for row in now) - sum(row.billed_nanousd for row in lines) == -12_345_000


def test_a_late_cost_is_charged_on_a_day_on_which_nothing_was_before(books: Books) -> None:
    """A job of that day was still in doubt, and the next month began."""
    for number in range(8):
        day = FIRST + number * ONE_DAY
        books.add(Used(day, Metric.STORED_BYTES, 12 * GB, "", StorageClass.STANDARD))
        charge(books.engine, BOOK, noon(day))
    today = FIRST + 8 * ONE_DAY  # 5 June
    late = date(2026, 5, 26)
    for cost in (30_000, -10_000):
        for name in ("", "ann"):
            books.add(Used(late, Metric.JOB_MICROUSD, cost, "veo", user_id=name, provider="fal"))
        for _ in range(2):
            charge(books.engine, BOOK, noon(today))
            assert assert_charged(books, MAY, today)[late, "clips-fal:veo"] == (30_000_000 if cost > 0 else 20_000_000)
            with reading(books.engine) as session:
                assert late not in charges.open_before(session, today)


@pytest.mark.parametrize(
    ("again", "has_clips"),
    [
        (date(2026, 7, 10), False),
        (date(2026, 7, 10), True),
        pytest.param(date(2026, 8, 5), True, marks=pytest.mark.long("70 days")),
    ],
)
def test_months_that_no_run_charged_are_charged_once_it_runs_again(books: Books, again: date, has_clips: bool) -> None:
    """A person had paused the schedule, while videos were stored, or made too."""
    for day in each_day(FIRST, again):
        if has_clips:
            books.live(day)
        else:
            books.add(Used(day, Metric.STORED_BYTES, books.chance.randrange(40 * GB), "", StorageClass.STANDARD))
        if day < date(2026, 5, 30) or day == again:
            charge(books.engine, BOOK, noon(day))
    for _ in range(4):  # days that are over are rolled up some at a time
        charge(books.engine, BOOK, noon(again))
    for month in months(FIRST, again):
        assert_charged(books, month, again)


def test_months_before_the_first_run_are_charged_too(books: Books) -> None:
    """Videos were made, at a flat price, for months in which `monitor_costs` was not switched on."""
    today = date(2026, 8, 10)
    for month in months(FIRST, today):
        books.add(*(Used(month, Metric.JOBS, 1_000, "svd", user_id=name, provider="local") for name in ("", "ann")))
    charge(books.engine, BOOK, noon(today))
    for month in months(FIRST, today):
        assert any(assert_charged(books, month, today).values())


@pytest.mark.parametrize("cost", [12_345, -12_345])
def test_what_is_learned_of_a_vendors_charges_later_than_that_changes_their_month_too(books: Books, cost: int) -> None:
    """As where a person compares a vendor's invoice, and ends doubts of the month before last."""
    books.live_and_charge(6)
    today = date(2026, 8, 20)
    books.live(today)
    for _ in range(2):
        charge(books.engine, BOOK, noon(today))
    for name in ("", "ann"):
        books.add(Used(date(2026, 5, 29), Metric.JOB_MICROUSD, cost, "kling", user_id=name, provider="fal"))
    for _ in range(2):
        charge(books.engine, BOOK, noon(today))
        for month in months(FIRST, today):
            lines, of_days = recorded(books.engine, month)
            expected = books.expected(month, today)
            assert of_clips(by_user(lines)) == of_clips(by_user(expected))
            assert of_clips(of_days) == of_clips(by_day(expected))


def test_by_user_and_day_only_the_days_are_kept_that_may_still_change(books: Books) -> None:
    books.live_and_charge(9)
    today = FIRST + 8 * ONE_DAY
    kept = {today - n * ONE_DAY for n in range(CHANGES_FOR.days + 1)}
    with reading(books.engine) as session:
        assert set(session.scalars(sa.select(open_charges.c.day))) == kept
        own = sa.select(usage_days.c.day).where(usage_days.c.user_id != "")
        assert kept >= set(session.scalars(own)) - {day for day in session.scalars(own) if day < min(kept)}
        rows = session.scalar(sa.select(sa.func.count()).select_from(charge_months))
        items = session.scalar(sa.select(sa.func.count(sa.distinct(charge_days.c.sku))))
    assert rows is not None
    assert items is not None
    assert rows <= 2 * items * (len(TIERS) + 1)  # two months, whatever the number of days


@pytest.mark.parametrize("point", ["charges.replace.before_commit", "charges.replace.after_commit"])
def test_a_run_that_is_killed_at_any_day_is_made_good_by_the_next(
    books: Books, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    count = 0

    def die(name: str) -> None:
        nonlocal count
        count -= name == point
        if count == 0 and name == point:
            raise KilledError

    monkeypatch.setattr("reelkeeper.store.core.engine.failpoint", die)
    days = [date(2026, 6, 2) + number * ONE_DAY for number in range(8)]
    for today in days:
        books.live(today)
        for count in (1, 2, 3, 0):  # noqa: B007  `die` counts down
            with suppress(KilledError):
                charge(books.engine, BOOK, noon(today))
    assert_charged(books, date(2026, 6, 1), days[-1])


def test_what_is_used_while_days_are_rolled_up_is_charged_once(books: Books) -> None:
    days = [FIRST + n * ONE_DAY for n in range(6)]
    for day in days[:4]:
        books.live(day)
    charge(books.engine, BOOK, noon(days[3]))

    def of_job(number: int) -> list[Used]:
        late = Used(days[number % 3], Metric.JOB_MICROUSD, 1_000 + number, "veo", provider="fal")
        return [late, late._replace(user_id="ann")]

    def use(number: int) -> None:
        with transaction(books.engine, "test") as session:
            usage.record(session, of_job(number), add=True)

    with ThreadPoolExecutor(4) as pool:
        used = [pool.submit(use, number) for number in range(60)]
        charged = [pool.submit(charge, books.engine, BOOK, noon(days[5])) for _ in range(4)]
        for done in used:
            done.result()
        for turn in charged:
            turn.result()
    for one in (one for number in range(60) for one in of_job(number)):
        books.used[one._replace(quantity=0)] += one.quantity
    charge(books.engine, BOOK, noon(days[5]))
    for month in months(FIRST, days[5]):
        assert_charged(books, month, days[5])


def test_a_budget_of_a_user_counts_rolled_up_days_too(books: Books) -> None:
    books.live_and_charge(20)
    today = FIRST + 19 * ONE_DAY
    policy = BudgetPolicy(
        daily_usd=None, budgets=tuple(Budget(scope=scope, usd=Decimal(1)) for scope in ("user:ann", "tier:free"))
    )
    with reading(books.engine) as session:
        found = charge_reports.by_scope(session, FIRST, today, policy.users())
    expected = books.expected(date(2026, 6, 1), today)
    assert {span.budget.scope: span.spent for span in spans(found, policy, noon(today))} == {
        span.budget.scope: span.spent for span in spans(expected, policy, noon(today))
    }


def test_an_export_has_each_cost_once_and_tells_the_days_of_each_line(books: Books) -> None:
    books.live_and_charge(12)
    lines, of_days = recorded(books.engine, date(2026, 6, 1))
    assert sum(line.billed_nanousd for line in lines) == sum(of_days.values())
    spans_of = {(line["ChargePeriodStart"], line["ChargePeriodEnd"]) for line in map(detail, lines)}
    assert spans_of == {
        ("2026-06-01T00:00:00Z", "2026-06-06T00:00:00Z"),
        ("2026-06-06T00:00:00Z", "2026-06-07T00:00:00Z"),
        ("2026-06-07T00:00:00Z", "2026-06-08T00:00:00Z"),
        ("2026-06-08T00:00:00Z", "2026-06-09T00:00:00Z"),
    }
    whole, _ = recorded(books.engine, MAY)
    assert {line["ChargePeriodEnd"] for line in map(detail, whole)} == {"2026-06-01T00:00:00Z"}


def test_a_recount_finds_a_month_whose_users_do_not_sum_to_its_days(books: Books) -> None:
    books.live_and_charge(8)
    month = sa.and_(charge_months.c.month == date(2026, 6, 1), charge_months.c.sku == "r2-storage-standard")
    with transaction(books.engine, "test") as session:
        more = sa.update(charge_months).where(month, charge_months.c.user_id == "")
        session.execute(more.values(billed_nanousd=charge_months.c.billed_nanousd + 7))
    with reading(books.engine) as session:
        (found,) = recount.mismatches(session)
    assert found == Mismatch("charged", "2026-06/r2-storage-standard", found.recorded, found.recorded + 7)
