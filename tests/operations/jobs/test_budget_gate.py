"""A hard budget admits exactly the jobs that it pays for, under concurrency, and cached videos cost nothing."""

import multiprocessing
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.process import BaseProcess

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.model.money import SoFar
from reelkeeper.model.requests import Cached, Declined, Joined, Queued, RefusedFor
from reelkeeper.operations.billing import metering
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.settle import Attempt, cancel, fail, succeed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.spend import limits
from reelkeeper.store.billing import spend_counters
from reelkeeper.store.core.engine import now, open_engine, reading, transaction
from reelkeeper.store.tables import charges, jobs, spend_days, usage_days
from tests.children import FORKED
from tests.marks import marked
from tests.operations.asking import ask, claim, fox, make, quoted_cost, row
from tests.operations.books import DOLLAR, make_user
from tests.policies import put_in_force

BOOKED = 15_000  # of the quote; the rest is its storage


@pytest.fixture
def funded(engine: sa.Engine) -> Iterator[sa.Engine]:
    make_user(engine, "ann", 10 * DOLLAR, tier="pro")
    yield engine
    assert accounts.recount(engine) == []


@pytest.fixture
def cost(funded: sa.Engine) -> int:
    """What one fox is expected to cost us."""
    return quoted_cost(funded)


def limit(microusd: int, *, monthly: bool = False) -> AdmissionPolicy:
    usd = Decimal(microusd) / DOLLAR
    return AdmissionPolicy(monthly_limit_usd=usd) if monthly else AdmissionPolicy(daily_limit_usd=usd)


def so_far(engine: sa.Engine) -> SoFar:
    with reading(engine) as session:
        return spend_counters.so_far(session, now(session))


@pytest.mark.parametrize(
    ("monthly", "told"),
    [
        (False, snapshot("over budget for today; try again after DAY TIME UTC")),
        (True, snapshot("over budget for this month; try again after DAY TIME UTC")),
    ],
)
def test_a_job_that_would_pass_the_limit_is_declined_with_when_to_ask_again(
    funded: sa.Engine, cost: int, monthly: bool, told: str
) -> None:
    put_in_force(funded, admission=limit(2 * cost, monthly=monthly))
    for number in (1, 2):
        assert isinstance(ask(funded, f"k{number}", fox(seed=number)), Queued)
    over = ask(funded, "k3", fox(seed=3))
    assert isinstance(over, Declined)
    assert over.code == RefusedFor.BUDGET
    assert marked(over.reason) == told
    until = datetime.now(UTC) + timedelta(seconds=over.retry_seconds or 0)
    assert until.minute in (0, 59), until  # midnight, give or take the clock
    with reading(funded) as session:
        waiting = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.state == "queued")
        assert session.execute(waiting).scalar_one() == 2
    assert isinstance(
        ask(funded, "k3", fox(seed=3), admission=AdmissionPolicy()), Queued
    )  # a refusal does not use up the key


def test_cached_and_joined_requests_are_served_beyond_the_limit(funded: sa.Engine, cost: int) -> None:
    put_in_force(funded, admission=limit(cost))
    leader = ask(funded, "k1")
    assert isinstance(leader, Queued)
    assert isinstance(ask(funded, "k2"), Joined)
    assert ask(funded, "k1") == leader
    make(funded, leader.job_id)
    succeed(funded, Attempt(leader.job_id, claim(funded, leader.job_id)), run_id="test")
    assert isinstance(ask(funded, "k3"), Cached)
    assert isinstance(ask(funded, "k4", fox(seed=4)), Declined)  # that it is done gives no money back


def test_a_job_counts_with_its_quote_then_with_what_it_cost_and_a_failed_one_with_what_was_paid(
    funded: sa.Engine, cost: int
) -> None:
    started = []
    for number in range(4):
        item = ask(funded, f"k{number}", fox(seed=number))
        assert isinstance(item, Queued)
        started.append(item.job_id)
    assert so_far(funded) == SoFar(0, 0, 4 * cost)
    cheap, dear, dead, given_up = started
    for job_id, provider in ((cheap, 0), (dear, 5 * cost)):
        make(funded, job_id)
        succeed(funded, Attempt(job_id, claim(funded, job_id), cost_microusd=provider), run_id="test")
    spent = 2 * (cost - BOOKED) + 5 * cost
    assert so_far(funded) == SoFar(spent, spent, 2 * cost)
    fail(funded, Attempt(dead, claim(funded, dead), cost_microusd=7), "it broke", run_id="test")
    assert so_far(funded) == SoFar(spent + 7, spent + 7, cost)
    assert row(funded, dead).cost_microusd == 7
    cancel(funded, given_up, run_id="test")
    assert so_far(funded) == SoFar(spent + 7, spent + 7, 0)


@pytest.mark.parametrize("monthly", [False, True])
def test_people_are_told_of_the_limit_that_declines_every_new_job(funded: sa.Engine, cost: int, monthly: bool) -> None:
    put_in_force(funded, admission=limit(5 * cost, monthly=monthly))
    told = []
    for number in range(5):
        assert isinstance(ask(funded, f"k{number}", fox(seed=number)), Queued)
        with reading(funded) as session:
            at = now(session)
        spent = metering.spent(funded, at, first=at.date(), users=[])
        told.append([(found.rule, found.scope, found.level) for found in limits.findings(spent.limits)])
    nearly, full = ("spend_limit", "all:jobs", "80"), ("spend_limit", "all:jobs", "100")
    assert told == [[], [], [], [nearly], [full]]
    setting = "monthly_limit_usd" if monthly else "daily_limit_usd"
    assert f"admission.{setting}" in limits.findings(spent.limits)[0].suggestion


def test_other_charges_count_and_a_recharged_day_counts_once(funded: sa.Engine, cost: int) -> None:
    with transaction(funded, "test") as session:
        at = now(session)
        stored = {"day": at.date(), "metric": "stored_bytes", "source": "store", "resource": "", "user_id": ""}
        session.execute(
            sa.insert(usage_days).values(**stored, storage_class="standard", quantity=10**14, sampled=False)
        )
    for _ in range(2):
        metering.charge(funded, PriceBook(), at)
    charged = so_far(funded).today_microusd
    with reading(funded) as session:
        kept = session.execute(sa.select(spend_days).where(spend_days.c.day == at.date())).one()
        billed = session.execute(sa.select(sa.func.sum(charges.c.billed_nanousd))).scalar_one()
    assert charged == kept.charged_microusd == -(-billed // 1_000) > 10 * DOLLAR  # 100 TB for a day of the month
    assert isinstance(ask(funded, "k1", admission=limit(charged + cost)), Queued)
    assert isinstance(ask(funded, "k2", fox(seed=2), admission=limit(charged + cost)), Declined)


def apply(url: str, names: list[str], results: "multiprocessing.SimpleQueue[list[str]]") -> None:
    """Ask for one video each as fast as it goes."""
    engine = open_engine(url)
    asked = [(name, fox(seed=int(name))) for name in names]
    answers = [admit(engine, request, user_id="ann", client_key=name) for name, request in asked]
    results.put([answer.code if isinstance(answer, Declined) else type(answer).__name__ for answer in answers])
    engine.dispose()


def test_many_at_once_are_admitted_up_to_the_last_dollar(funded: sa.Engine, cost: int) -> None:
    """Of 60 requests in three processes the budget pays for 7."""
    put_in_force(funded, admission=limit(8 * cost - 1))
    results: multiprocessing.SimpleQueue[list[str]] = FORKED.SimpleQueue()
    url, names = funded.url.render_as_string(hide_password=False), [str(number) for number in range(60)]
    children: list[BaseProcess] = [
        FORKED.Process(target=apply, args=(url, names[start::3], results)) for start in range(3)
    ]
    for child in children:
        child.start()
    told = [code for _ in children for code in results.get()]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 3
    assert sorted(told) == sorted(["Queued"] * 7 + [RefusedFor.BUDGET] * 53)
