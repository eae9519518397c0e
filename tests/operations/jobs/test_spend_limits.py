"""Budgets of a provider, model, tier and user admit exactly the jobs that they pay for."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import Metric
from reelkeeper.model.requests import Cached, Declined, Joined, Queued, RefusedFor
from reelkeeper.operations.billing import metering
from reelkeeper.operations.health import accounts, status
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.settle import Attempt, cancel, fail, succeed
from reelkeeper.operations.lifecycle import policies
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.rules.spend import watch
from reelkeeper.rules.spend.anomaly import AnomalyPolicy
from reelkeeper.rules.spend.budget import BudgetPolicy, Period
from reelkeeper.rules.spend.limits import RULE, SpendLimit
from reelkeeper.store.billing import usage
from reelkeeper.store.core.engine import now, open_engine, reading, transaction
from reelkeeper.store.tables import credit_holds, heartbeats, job_totals, jobs, reservations
from tests.children import FORKED
from tests.marks import marked, without_decimals
from tests.operations.asking import ask, claim, fox, make, quoted_cost, row
from tests.operations.books import DOLLAR, make_user
from tests.policies import put_in_force

SCOPES = ("provider:local", "model:m", "tier:pro", "user:ann")


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database, but for the race below."""
    return sqlite_engine


@pytest.fixture
def funded(engine: sa.Engine) -> Iterator[sa.Engine]:
    make_user(engine, "ann", 100 * DOLLAR, tier="pro")
    make_user(engine, "ben", 100 * DOLLAR, tier="pro")
    yield engine
    assert accounts.recount(engine) == []  # in flight, by scope, is what the jobs in flight come to


@pytest.fixture
def cost(funded: sa.Engine) -> int:
    """What one fox is expected to cost us."""
    return quoted_cost(funded)


def limits(microusd: int, *scopes: str, period: Period = Period.DAY) -> AdmissionPolicy:
    usd = Decimal(microusd) / DOLLAR
    return AdmissionPolicy(spend_limits=tuple(SpendLimit(scope=scope, period=period, usd=usd) for scope in scopes))


def totals(engine: sa.Engine, scope: str) -> tuple[int, int, int]:
    """Return what a scope has in flight, and spent today and this month."""
    with reading(engine) as session:
        rows = session.execute(sa.select(job_totals).where(job_totals.c.scope == scope)).all()
    by_length = {len(row.period): row.microusd for row in rows}
    return by_length.get(0, 0), by_length.get(10, 0), by_length.get(7, 0)


def queued(engine: sa.Engine, key: str, seed: int, user: str = "ann") -> str:
    answer = ask(engine, key, fox(seed=seed), user=user)
    assert isinstance(answer, Queued), answer
    return answer.job_id


def finish(engine: sa.Engine, job_id: str, cost_microusd: int | None = None) -> None:
    make(engine, job_id)
    succeed(engine, Attempt(job_id, claim(engine, job_id), cost_microusd=cost_microusd), run_id="test")


@pytest.mark.parametrize("scope", [*SCOPES, "user:*"])
def test_a_job_beyond_a_limit_is_refused_with_when_to_ask_again_and_nothing_is_held(
    funded: sa.Engine, cost: int, scope: str
) -> None:
    put_in_force(funded, admission=limits(2 * cost, scope, period=Period.MONTH))
    first = queued(funded, "k1", 1)
    finish(funded, first)
    queued(funded, "k2", 2)
    over = ask(funded, "k3", fox(seed=3))
    assert isinstance(over, Declined)
    assert over.code == RefusedFor.SPEND_LIMIT
    whose = scope.replace(":", " ").replace("*", "ann")
    assert without_decimals(marked(over.reason, WHOSE=whose, MONTH=f"{datetime.now(UTC):%Y-%m}")) == snapshot(
        "over the monthly budget of WHOSE: this video is expected to cost $#, and $# of $# is left for MONTH; it can be asked for again from DAY TIME UTC on. Nothing was held"
    )
    until = datetime.now(UTC) + timedelta(seconds=over.retry_seconds or 0)
    assert until.day in (1, 28, 29, 30, 31)
    with reading(funded) as session:
        for table in (jobs, reservations, credit_holds):
            assert session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 3  # with the probe
    put_in_force(funded, admission=AdmissionPolicy())
    queued(funded, "k3", 3)  # a refusal does not use up the key


def test_a_job_above_the_whole_limit_gets_no_time_to_retry(funded: sa.Engine, cost: int) -> None:
    put_in_force(funded, admission=limits(cost - 1, "user:ann"))
    over = ask(funded, "k1")
    assert isinstance(over, Declined)
    assert over.retry_seconds is None
    assert without_decimals(marked(over.reason)) == snapshot(
        "over the daily budget of user ann: this video is expected to cost $#, and $# of $# is left for DAY; a cheaper one may fit. Nothing was held"
    )


def test_cached_and_joined_requests_are_served_beyond_the_limit(funded: sa.Engine, cost: int) -> None:
    put_in_force(funded, admission=limits(cost, *SCOPES))
    leader = queued(funded, "k1", 1)
    assert isinstance(ask(funded, "k2", fox(seed=1)), Joined)
    finish(funded, leader)
    assert isinstance(ask(funded, "k3", fox(seed=1)), Cached)
    assert isinstance(ask(funded, "k4", fox(seed=4)), Declined)


def test_a_job_counts_in_flight_then_with_what_it_cost_in_each_of_its_scopes(funded: sa.Engine, cost: int) -> None:
    cheap, dear, dead, given_up = (queued(funded, f"k{number}", number) for number in range(1, 5))
    for scope in SCOPES:
        assert totals(funded, scope) == (4 * cost, 0, 0)
    finish(funded, cheap, cost_microusd=0)
    finish(funded, dear, cost_microusd=5 * cost)
    fail(funded, Attempt(dead, claim(funded, dead), cost_microusd=7), "it broke", run_id="test")
    cancel(funded, given_up, run_id="test")
    spent = 2 * (cost - 15_000) + 5 * cost + 7  # of the quotes, 15,000 each are the vendor's
    for scope in SCOPES:
        assert totals(funded, scope) == (0, spent, spent)
    claiming.redrive(funded, dead, author="test")
    assert totals(funded, "user:ann") == (cost, spent, spent)
    assert totals(funded, "user:ben") == (0, 0, 0)


def test_a_failed_attempt_counts_and_a_job_counts_at_the_provider_that_accepts_it(funded: sa.Engine, cost: int) -> None:
    job_id = queued(funded, "k1", 1)
    (mine,) = claiming.claim(funded, "w", [None], limit=1)
    claiming.announce(funded, mine, "fal")
    assert totals(funded, "provider:local") == (0, 0, 0)
    assert totals(funded, "provider:fal") == (cost, 0, 0)
    mine = mine._replace(lane="fal")
    claiming.retry(funded, mine, "it broke", cost_microusd=9)
    assert totals(funded, "provider:fal") == totals(funded, "user:ann") == (cost, 9, 9)
    with reading(funded) as session:
        today = now(session).date()
        billed = list(usage.days(session, today, today, metrics=[Metric.JOB_MICROUSD]))
    assert [(one.provider, one.quantity) for one in billed] == [("fal", 9)]
    assert row(funded, job_id).state == JobState.QUEUED
    finish(funded, job_id, cost_microusd=7_000)
    assert row(funded, job_id).cost_microusd == 9 + 7_000


def test_a_promoted_follower_must_fit_its_own_budget(funded: sa.Engine, cost: int) -> None:
    put_in_force(funded, admission=limits(cost, "user:ben", "user:eve"))
    make_user(funded, "eve", DOLLAR, tier="pro")
    leader = ask(funded, "k1", fox(seed=1, shared=True))
    assert isinstance(leader, Queued)
    joined = {user: ask(funded, "k1", fox(seed=1, shared=True), user=user) for user in ("ben", "eve")}
    queued(funded, "k2", 2, "ben")
    done = fail(funded, Attempt(leader.job_id, claim(funded, leader.job_id)), "it broke", run_id="test")
    ben, eve = joined["ben"], joined["eve"]
    assert isinstance(ben, Joined)
    assert isinstance(eve, Joined)
    assert done.promoted == eve.job_id
    assert (row(funded, ben.job_id).state, row(funded, eve.job_id).state) == (JobState.DEAD, JobState.QUEUED)
    assert totals(funded, "user:eve") == (cost, 0, 0)


@pytest.mark.parametrize("period", ["daily", "monthly"])
def test_a_promoted_follower_must_fit_the_budget_of_the_day_and_the_month(
    funded: sa.Engine, cost: int, period: str
) -> None:
    limit = {f"{period}_limit_usd": Decimal(cost) / DOLLAR}
    put_in_force(funded, admission=AdmissionPolicy.model_validate(limit))
    leader = ask(funded, "k1", fox(seed=1, shared=True))
    assert isinstance(leader, Queued)
    joined = ask(funded, "k1", fox(seed=1, shared=True), user="ben")
    assert isinstance(joined, Joined)
    charged = Attempt(leader.job_id, claim(funded, leader.job_id), may_be_paid=True)
    done = fail(funded, charged, "its vendor may have made it", run_id="test")
    assert (done.promoted, row(funded, joined.job_id).state) == (None, JobState.DEAD)
    assert totals(funded, "user:ben") == (0, 0, 0)


def test_the_use_of_limits_is_listed_for_named_scopes_and_for_nearly_full_ones(funded: sa.Engine, cost: int) -> None:
    put_in_force(funded, admission=limits(2 * cost, "user:*", "provider:fal"))
    queued(funded, "k1", 1)
    queued(funded, "k2", 2)
    queued(funded, "k1", 3, "ben")
    assert isinstance(ask(funded, "k3", fox(seed=4)), Declined)
    with reading(funded) as session:
        as_of = now(session)
    spent = metering.spent(funded, as_of, first=as_of.date(), users=[])
    told = [finding for finding in watch.judge(spent, BudgetPolicy(), AnomalyPolicy(), as_of) if finding.rule == RULE]
    assert [(finding.scope, finding.level) for finding in told] == [("user:ann", "100")]
    assert told[0].text == snapshot("$0.00 spent and $0.032524 in flight. 1 request beyond it was refused.")
    found = status.gather(funded).money.limits
    assert found == tuple(spent.limits)
    assert [(use.scope, use.percent, use.refusals) for use in found] == [("user:ann", 100, 1), ("provider:fal", 0, 0)]


def levels(engine: sa.Engine) -> dict[str, str]:
    """Return the level of each limit that is reported."""
    with reading(engine) as session:
        as_of = now(session)
    spent = metering.spent(engine, as_of, first=as_of.date(), users=[])
    found = watch.judge(spent, BudgetPolicy(), AnomalyPolicy(), as_of)
    return {finding.scope: finding.level for finding in found if finding.rule == RULE}


@pytest.mark.parametrize(
    ("times", "left"),
    [(10, {}), (0, {"user:ann": "100"}), (1, {"user:ann": "100"})],
)
def test_a_limit_that_was_raised_is_not_used_up_by_what_the_earlier_one_refused(
    funded: sa.Engine, cost: int, times: int, left: dict[str, str]
) -> None:
    put_in_force(funded, admission=limits(3 * cost // 2, "user:ann", "user:ben"))
    for number, user in enumerate(("ann", "ben")):
        queued(funded, "k1", 2 * number, user)
        assert isinstance(ask(funded, "k2", fox(seed=2 * number + 1), user=user), Declined)
    assert levels(funded) == {"user:ann": "100", "user:ben": "100"}
    after = (*limits(times * cost, "user:*").spend_limits, *limits(3 * cost // 2, "user:ben").spend_limits)
    wanted = DEFAULTS.overridden(admission=AdmissionPolicy(spend_limits=after))
    policies.apply(funded, policies.effect_of(funded, wanted), author="ops", reason="a test")
    assert levels(funded) == {**left, "user:ben": "100"}


@pytest.mark.parametrize(("last_check_days", "is_told"), [(3, True), (1, True), (0, False)])
def test_a_limit_that_refused_a_job_between_the_last_check_of_a_day_and_its_end_is_told(
    funded: sa.Engine, cost: int, last_check_days: int, is_told: bool
) -> None:
    put_in_force(funded, admission=limits(3 * cost // 2, "user:ann", "user:ben"))
    queued(funded, "k1", 1)
    assert isinstance(ask(funded, "k2", fox(seed=2)), Declined)
    with reading(funded) as session:
        today = now(session)
    tomorrow = today + timedelta(days=1)
    with transaction(funded, "test") as session:
        beat = {"flow": "monitor_costs", "period_seconds": 3600, "grace_seconds": 0, "run_id": "test"}
        last = tomorrow - timedelta(days=last_check_days)
        session.execute(sa.insert(heartbeats).values(**beat, last_ok_at=last))
    spent = metering.spent(funded, tomorrow, first=tomorrow.date(), users=[])
    found = [one for one in watch.judge(spent, BudgetPolicy(), AnomalyPolicy(), tomorrow) if one.rule == RULE]
    told = [("user:ann", f"{today:%Y-%m-%d}", "100")] if is_told else []
    assert [(one.scope, one.period, one.level) for one in found] == told


def test_a_wrong_total_is_found_and_corrected(funded: sa.Engine, cost: int) -> None:
    queued(funded, "k1", 1)
    with transaction(funded, "test") as session:
        session.execute(sa.delete(job_totals).where(job_totals.c.scope == "user:ann"))
    found = {wrong.what: (wrong.subject, wrong.recorded, wrong.counted) for wrong in accounts.recount(funded)}
    assert found == {
        "in_flight": ("user:ann", 0, cost),
        "jobs_in_flight": ("user:ann", 0, 1),
        "ms_in_flight": ("user:ann", 0, 120_200),
    }
    accounts.correct(funded, author="test")


def apply(url: str, keys: list[int]) -> list[tuple[str, str]]:
    """Ask for one video each as fast as it goes; whose and of which model, the key says."""
    engine, found = open_engine(url), []
    for key in keys:
        user, model = ("ann", "ben")[key % 2], ("m", "n")[key // 2 % 2]
        provider = ("local", "fal")[key // 4 % 2]
        answer = admit(engine, fox(seed=key, model=model), user_id=user, client_key=f"{key}", provider=provider)
        told = answer.code if isinstance(answer, Declined) else type(answer).__name__
        found += [(name, told) for name in (f"user:{user}", f"model:{model}", f"provider:{provider}")]
    engine.dispose()
    return found


def race(engine: sa.Engine, pool: Executor, scope: str, *, requests: int, at_once: int, fits: int) -> None:
    """Request videos in parallel, half of them in the scope: as many of these as fit are admitted."""
    make_user(engine, "ann", 100 * DOLLAR, tier="pro")
    make_user(engine, "ben", 100 * DOLLAR, tier="pro")
    probe = ask(engine, "probe", fox(seed=10**6))
    assert isinstance(probe, Queued)
    cost = int(row(engine, probe.job_id).quoted_cost_microusd)
    cancel(engine, probe.job_id, run_id="test")
    put_in_force(engine, admission=limits((fits + 1) * cost - 1, scope))
    url = engine.url.render_as_string(hide_password=False)
    with pool:
        told = pool.map(apply, [url] * at_once, [list(range(start, requests, at_once)) for start in range(at_once)])
        counts = Counter(answer for answers in told for answer in answers)
    assert counts[scope, "Queued"] == fits
    assert counts[scope, RefusedFor.SPEND_LIMIT] == requests // 2 - fits
    other = {"user:ann": "user:ben", "model:m": "model:n", "provider:local": "provider:fal"}[scope]
    assert counts[other, "Queued"] + fits == sum(
        count for (name, told), count in counts.items() if told == "Queued" and name in (scope, other)
    )
    assert counts[other, RefusedFor.SPEND_LIMIT] == 0
    assert accounts.recount(engine) == []


def test_a_few_at_once_are_admitted_up_to_the_last_dollar_of_a_user(postgresql_engine: sa.Engine) -> None:
    race(postgresql_engine, ThreadPoolExecutor(2), "user:ann", requests=16, at_once=2, fits=3)


@pytest.mark.long
@pytest.mark.parametrize("scope", ["provider:local", "model:m", "user:ann"])
@pytest.mark.parametrize("backend", ["sqlite_engine", "postgresql_engine"])
def test_two_hundred_at_once_are_admitted_up_to_the_last_dollar(
    request: pytest.FixtureRequest, backend: str, scope: str
) -> None:
    pool = ProcessPoolExecutor(8, mp_context=FORKED)
    race(request.getfixturevalue(backend), pool, scope, requests=200, at_once=8, fits=37)
