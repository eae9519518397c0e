"""What each user cost: vendor by vendor, users' charges and the rest are what its jobs count in the budgets."""

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import Metric, SentJob, StorageClass, Used, next_month
from reelkeeper.model.requests import Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.billing.metering import charge
from reelkeeper.operations.billing.users import costs, costs_by_user
from reelkeeper.operations.jobs import charged
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs.settle import Attempt, fail, succeed
from reelkeeper.rules.billing.allocation import CLOUDFLARE, MAKING
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.store.billing import charges, usage
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.jobs.claims import Claim
from reelkeeper.store.tables import charges as charge_rows
from reelkeeper.store.tables import job_totals, jobs, vendor_jobs
from tests.operations.asking import ask, fox, make
from tests.operations.books import DOLLAR, make_user
from tests.operations.queue import find, make_due, only
from tests.policies import put_in_force

READ = {"source": "a price list", "read_on": "2026-11-25"}
SOLD: dict[str, dict[str, Any]] = {  # a job's flat price, and its vendors' prices of a clip of five seconds
    "fal": {"unit": "second", "rates": [{"usd": "0.1"}], **READ},
    "runway": {"unit": "clip", "rates": [{"usd": "0.633333"}], **READ},
    "http": {"base_usd": "0.3", "compute_usd": "0.0123", "api_usd": "0.0077"},
}
OFFER = {"provider": "runway", "vendor_model": "m", "price": SOLD["runway"]}
BOOK = PriceBook.model_validate(
    {
        "models": [
            {"model": name, "provider": name, "vendor_model": "v", "price": price}
            | ({"offers": [OFFER]} if name == "fal" else {})
            for name, price in SOLD.items()
        ]
    }
)
USERS = ("ann", "bob", "cleo")


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    for user in USERS:
        make_user(sqlite_engine, user, 10_000 * DOLLAR, tier="pro")
    put_in_force(sqlite_engine, book=BOOK)
    return sqlite_engine


class Made(NamedTuple):
    """A job, its attempts that brought nothing, and how it ended; costs are shares of the book's price in percent."""

    user: str
    model: str
    failed: tuple[int | None, ...]  # what its vendor stated; None: nothing, and it may charge
    delivered: int | None  # what its vendor stated, or -1: nothing; None: it was given up in doubt
    is_doubt_ended: bool
    is_bought_again: bool  # elsewhere


STATED = st.one_of(st.none(), st.integers(0, 130), st.just(2_000))  # the last is absurd
MADE = st.builds(
    Made,
    st.sampled_from(USERS),
    st.sampled_from(sorted(SOLD)),
    st.lists(STATED, max_size=2).map(tuple),
    st.one_of(st.none(), st.just(-1), st.integers(0, 130), st.just(2_000)),
    st.booleans(),
    st.booleans(),
)


def booked(provider: str) -> int:
    return {"fal": 500_000, "runway": 633_333, "http": 20_000}[provider]


def send(engine: sa.Engine, job_id: str) -> Claim:
    make_due(engine)
    lane = find(engine, job_id).lane
    (job,) = claiming.claim(engine, lane, [None], limit=99, served=only(lane))
    assert job.id == job_id
    return claiming.announce(engine, job, lane)


def percent(job: Claim, share: int | None) -> int | None:
    return None if share is None or share < 0 else booked(str(job.provider)) * share // 100


def give_up(engine: sa.Engine, job: Claim) -> SentJob:
    fail(engine, Attempt(job.id, job.lease_token, None, True, job.provider_key), "no answer", run_id="test")
    with reading(engine) as session:
        row = session.execute(sa.select(vendor_jobs).where(vendor_jobs.c.key == job.provider_key)).one()
    return SentJob(job.id, row.key, None, row.sent_at, row.ended_at, row.counted_microusd)


def deliver(engine: sa.Engine, job: Claim, share: int) -> None:
    make(engine, job.id)
    attempt = Attempt(job.id, job.lease_token, percent(job, share), True, job.provider_key, processing_seconds=5.0)
    succeed(engine, attempt, run_id="test")


def play(engine: sa.Engine, made: Made, number: int) -> None:
    answer = ask(engine, f"k{number}", fox(model=made.model, seed=number), user=made.user)
    assert isinstance(answer, Queued), answer
    for share in made.failed:
        job = send(engine, answer.job_id)
        claiming.retry(engine, job, "it failed", cost_microusd=percent(job, share), may_be_paid=True)
    job = send(engine, answer.job_id)
    if made.delivered is not None:
        deliver(engine, job, made.delivered)
        return
    doubt = give_up(engine, job)
    if made.is_bought_again:
        claiming.redrive(engine, job.id, author="test", buy_again=True)
        if made.model == "fal":
            with transaction(engine, "test") as session:  # as a breaker moves it
                session.execute(sa.update(jobs).where(jobs.c.id == job.id).values(lane="runway"))
        deliver(engine, send(engine, job.id), -1)
    if made.is_doubt_ended:
        charged.end_doubts(engine, [doubt], author="test", run_id="test")


def of_vendors(engine: sa.Engine) -> Counter[str]:
    """Sum what is recorded of the jobs that vendors made, in nano-dollars."""
    counted = sa.func.sum(vendor_jobs.c.counted_microusd)
    with reading(engine) as session:
        rows = session.execute(sa.select(vendor_jobs.c.provider, counted).group_by(vendor_jobs.c.provider))
        return +Counter({name: int(microusd) * 1_000 for name, microusd in rows})


def of_budgets(engine: sa.Engine) -> Counter[str]:
    """Sum what the vendors' budgets have as spent, without the storage that the quote of a video has."""
    total, made = job_totals.c, sa.select(jobs).where(jobs.c.state == JobState.SUCCEEDED)
    chosen = sa.and_(sa.func.length(total.period) == 7, total.scope.startswith("provider:"))
    with reading(engine) as session:
        found = Counter[str]()
        for row in session.execute(sa.select(total.scope, total.microusd).where(chosen)):
            found[row.scope.removeprefix("provider:")] += row.microusd * 1_000
        for job in session.execute(made):
            found[job.lane] -= (job.quoted_cost_microusd - booked(job.lane)) * 1_000
    return +found


def billed(engine: sa.Engine) -> tuple[Counter[str], Counter[str]]:
    """Sum users' charges for jobs, and the residual, by vendor."""
    own, rest = Counter[str](), Counter[str]()
    with reading(engine) as session:
        for row in session.execute(sa.select(charge_rows).where(charge_rows.c.service.in_(MAKING))):
            (own if row.user_id else rest)[row.provider] += row.billed_nanousd
    return own, rest


@given(st.lists(MADE, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_users_charges_and_the_rest_are_what_vendors_jobs_count_in_the_budgets(
    engine: sa.Engine, made: list[Made]
) -> None:
    """Of each vendor, to the nano-dollar; the jobs of earlier examples count, too."""
    with reading(engine) as session:
        begin = int(session.execute(sa.select(sa.func.count()).select_from(jobs)).scalar_one())
    for number, one in enumerate(made, begin):
        play(engine, one, number)
    with reading(engine) as session:
        as_of = now(session)
    charge(engine, BOOK, as_of)
    own, rest = billed(engine)
    assert +(own + rest) == of_vendors(engine) == of_budgets(engine)
    with reading(engine) as session:
        of_all = costs_by_user(session, as_of.date() - timedelta(1), as_of.date())
        by_provider = {
            total.key: total.billed_nanousd for total in charges.sums(session, "provider", date.min, date.max)
        }
    parts = Counter[str]()
    for name in ("", *USERS):
        parts.update(of_all.by_provider.get(name, {}))
    assert +parts == +Counter(by_provider) == of_vendors(engine)
    for user in USERS:
        months, has_more, _ = costs(engine, user, date.min, 12)
        assert not has_more
        assert {part.provider: part.billed_nanousd for part in months} == of_all.by_provider.get(user, {})
        assert all(part.billed_nanousd <= part.list_nanousd for part in months), "users bear no overcharge"


def test_a_price_below_the_book_is_listed_at_the_book_and_billed_as_stated(engine: sa.Engine) -> None:
    for number, share in enumerate((80, 120)):
        play(engine, Made("ann", "fal", (), share, False, False), number)
    with reading(engine) as session:
        as_of = now(session)
    charge(engine, BOOK, as_of)
    with reading(engine) as session:
        rows = {row.user_id: row for row in charges.between(session, date.min, date.max)}
    assert (rows["ann"].list_nanousd, rows["ann"].billed_nanousd) == (10**9, 900_000_000)
    assert (rows[""].list_nanousd, rows[""].billed_nanousd) == (0, 100_000_000)
    assert {row.sku for row in rows.values()} == {"clips-fal:fal"}


def test_what_was_never_made_is_taken_back_from_the_vendor_that_it_counted_at(engine: sa.Engine) -> None:
    play(engine, Made("ann", "fal", (), None, True, True), 0)
    assert of_vendors(engine) == of_budgets(engine) == {"runway": 633_333_000}


def test_the_months_of_a_user_are_read_by_pages(engine: sa.Engine) -> None:
    days = (date(2025, 12, 30), date(2026, 1, 31), date(2026, 3, 1))
    stored = [
        Used(day, Metric.STORED_BYTES, 10**9, storage_class=StorageClass.STANDARD, user_id=user)
        for day in days
        for user in ("", "ann")
    ]
    with transaction(engine, "test") as session:
        usage.record(session, stored)
    for day in days:
        charge(engine, BOOK, datetime.combine(day, time(12), UTC))
    first, has_more, _ = costs(engine, "ann", date.min, 2)
    assert ([part.month for part in first], has_more) == ([date(2025, 12, 1), date(2026, 1, 1)], True)
    rest, has_more, _ = costs(engine, "ann", next_month(first[-1].month), 2)
    assert ([(part.month, part.provider) for part in rest], has_more) == ([(date(2026, 3, 1), CLOUDFLARE)], False)
    assert costs(engine, "bob", date.min, 2) == ([], False, None)


def test_what_a_user_paid_is_less_refunds_and_stands_beside_what_the_user_cost(engine: sa.Engine) -> None:
    play(engine, Made("ann", "fal", (), -1, False, False), 0)
    job = next(iter(find_all(engine)))
    with transaction(engine, "test") as session:
        ledger.refund(session, str(job.hold_id), 1_000, "back", run_id="test")
        today = now(session).date()
    with reading(engine) as session:
        paid = [costs_by_user(session, day, day).paid_microusd for day in (today, today + timedelta(2))]
    assert paid == [{"ann": job.price_microusd - 1_000}, {}]
    with reading(engine) as session:
        (free,) = costs_by_user(session, today, today).sums  # nothing is charged yet
    assert (free.key, free.billed_nanousd) == ("ann", 0)


def find_all(engine: sa.Engine) -> list[sa.Row[Any]]:
    with reading(engine) as session:
        return list(session.execute(sa.select(jobs)))
