"""A job of a model with two providers: where it is sent, its cost there, and that only one ever has it."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reelkeeper.adapters.providers import HttpProvider, RemoteGenerator
from reelkeeper.errors import LeaseLost, ProviderBusy
from reelkeeper.model.jobs import End, JobState
from reelkeeper.model.money import Metric
from reelkeeper.model.requests import Declined, Queued
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs import breaker, routing
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.operations.jobs.settle import Attempt, succeed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs import breaker as rules
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.routing import Reason
from reelkeeper.rules.spend.budget import Period
from reelkeeper.rules.spend.limits import SpendLimit
from reelkeeper.store.billing import job_totals as job_totals_of
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.jobs import endings, queue
from reelkeeper.store.jobs.claims import Claim
from reelkeeper.store.tables import controls, job_totals, jobs, policy_versions, usage_days
from tests.children import FORKED
from tests.doubles.provider import TOKEN, ProviderDouble
from tests.faults.world import World
from tests.jobs import at, put, waiting
from tests.operations.asking import ask, fox, make
from tests.operations.books import DOLLAR, balances, make_user
from tests.operations.queue import end_wait, expire_claims, find, make_due, only
from tests.operations.shop import run
from tests.policies import put_in_force

READ = {"source": "a price list", "read_on": "2026-11-25"}


@pytest.fixture(autouse=True)
def one_attempt_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_FEWEST_ATTEMPTS", 1)


def second(usd: str, **more: object) -> dict[str, Any]:
    return {"unit": "second", "rates": [{"usd": usd, **more}], **READ}


def sold(*fallbacks: dict[str, Any], usd: str = "0.1", margin: int = 100) -> PriceBook:
    model = {"model": "m", "provider": "fal", "vendor_model": "fal/m", "price": second(usd), "offers": fallbacks}
    return PriceBook.model_validate({"models": [model], "margin_percent": margin})


RUNWAY = {"provider": "runway", "vendor_model": "m1", "price": second("0.3")}
BOOK = sold(RUNWAY)


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


@pytest.fixture
def rich(engine: sa.Engine) -> Iterator[sa.Engine]:
    make_user(engine, "ann", 100 * DOLLAR, tier="pro")
    put_in_force(engine, book=BOOK)
    yield engine
    assert accounts.recount(engine) == []  # in flight, by scope, is what the jobs in flight come to


def queued(engine: sa.Engine, key: str = "k", **options: Any) -> str:  # noqa: ANN401  fields of a request
    answer = ask(engine, key, fox(seed=len(key), **options))
    assert isinstance(answer, Queued), answer
    return answer.job_id


def fell_ill(engine: sa.Engine, *providers: str, is_locked: bool = False) -> None:
    for provider in providers:
        breaker.note_failed(engine, provider, "j", "no answer", is_locked=is_locked, run_id="test")


def taken(engine: sa.Engine, provider: str) -> list[Claim]:
    return claim(engine, provider, [None] * 9, limit=99, served=only(provider))


def in_flight(engine: sa.Engine, *scopes: str) -> list[int]:
    with reading(engine) as session:
        rows = session.execute(sa.select(job_totals.c.scope, job_totals.c.microusd).where(job_totals.c.period == ""))
        found = {row.scope: int(row.microusd) for row in rows}
    return [found.get(scope, 0) for scope in scopes]


@pytest.mark.parametrize("is_locked", [True, False])
@pytest.mark.parametrize("is_admitted_before", [True, False])
def test_a_job_goes_to_the_second_provider_at_the_price_known_before(
    rich: sa.Engine, is_admitted_before: bool, is_locked: bool
) -> None:
    probe = find(rich, queued(rich, "probe"))
    assert (probe.lane, in_flight(rich, "provider:fal")) == ("fal", [probe.quoted_cost_microusd])
    before = balances(rich, "ann")
    job_id = queued(rich) if is_admitted_before else ""
    fell_ill(rich, "fal", is_locked=is_locked)
    job_id = job_id or queued(rich)
    held = balances(rich, "ann")
    assert {job.lane for job in taken(rich, "runway")} == {"runway"}
    assert balances(rich, "ann") == held == (before[0] - probe.price_microusd, before[1] + probe.price_microusd)
    job = find(rich, job_id)
    assert (job.lane, job.price_microusd, job.price_book) == ("runway", probe.price_microusd, probe.price_book)
    assert job.quoted_cost_microusd - probe.quoted_cost_microusd == 5 * 200_000  # 5 s, at 0.3 and not 0.1 dollars
    both = 2 * job.quoted_cost_microusd
    assert in_flight(rich, "provider:fal", "provider:runway", "user:ann", "tier:pro") == [0, both, both, both]


def test_a_moved_job_costs_the_second_providers_price_and_is_not_sold_at_a_loss(rich: sa.Engine) -> None:
    fell_ill(rich, "fal")
    job_id = queued(rich)
    (job,) = taken(rich, "runway")
    make(rich, job_id)
    done = succeed(rich, Attempt(job_id, job.lease_token), run_id="test")
    found = find(rich, job_id)
    assert done.charged_microusd == found.price_microusd >= found.quoted_cost_microusd > 1_500_000
    assert of_clips(rich) == [1_500_000] * 2
    assert in_flight(rich, "provider:fal", "provider:runway") == [0, 0]


def test_a_moved_job_is_billed_the_second_providers_flat_price(rich: sa.Engine) -> None:
    flat = {"base_usd": "0.7", "compute_usd": "0.5", "api_usd": "0.2"}
    put_in_force(rich, book=sold({"provider": "runway", "price": flat}))
    fell_ill(rich, "fal")
    job_id = queued(rich)
    (job,) = taken(rich, "runway")
    make(rich, job_id)
    succeed(rich, Attempt(job_id, job.lease_token), run_id="test")
    assert of_clips(rich) == [700_000] * 2


def of_clips(engine: sa.Engine) -> list[int]:
    """Read what jobs billed by the clip cost the account and ann, in micro-dollars."""
    with reading(engine) as session:
        chosen = sa.select(usage_days.c.quantity).where(usage_days.c.metric == Metric.JOB_MICROUSD)
        return list(session.execute(chosen).scalars())


def refused(engine: sa.Engine, job: Claim) -> None:
    claiming.retry(engine, job, "busy", busy=ProviderBusy("busy", 600))


def failed(engine: sa.Engine, job: Claim) -> None:
    claiming.retry(engine, claiming.announce(engine, job, "fal"), "it failed", cost_microusd=70)


def never_sent(engine: sa.Engine, job: Claim) -> None:
    del job
    expire_claims(engine)


def lost(engine: sa.Engine, job: Claim) -> None:
    claiming.park(engine, claiming.announce(engine, job, "fal"), "no answer")


def handed_over(engine: sa.Engine, job: Claim) -> None:
    claiming.hand_back(engine, [claiming.announce(engine, job, "fal")])


def left(engine: sa.Engine, job: Claim) -> None:
    claiming.announce(engine, job, "fal")
    expire_claims(engine)


def at_work(engine: sa.Engine, job: Claim) -> None:
    claiming.announce(engine, job, "fal")


@pytest.mark.parametrize(
    ("ends", "lane"),
    [(refused, "runway"), (failed, "runway"), (never_sent, "runway")]
    + [(ends, "fal") for ends in (lost, handed_over, left, at_work)],
)
def test_only_a_job_that_no_provider_can_have_is_moved(rich: sa.Engine, ends: Any, lane: str) -> None:  # noqa: ANN401  one of the above
    job_id = queued(rich)
    (job,) = taken(rich, "fal")
    ends(rich, job)
    fell_ill(rich, "fal")
    taken(rich, "runway")
    assert find(rich, job_id).lane == lane


class Walk:
    """Two workers, one of each provider, who keep book of which provider may have which job."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.at: dict[str, str] = {}  # job -> provider
        self.mine: list[Claim] = []

    def claim(self, provider: str) -> None:
        """Claim the available jobs, and send those that were never sent."""
        for job in taken(self.engine, provider):
            if not job.provider_key and job.lane == provider:
                assert job.id not in self.at, f"{self.at[job.id]} may have it"
                self.at[job.id] = provider
                self.mine.append(claiming.announce(self.engine, job, provider))
            else:
                assert not job.provider_key or self.at[job.id] == job.provider == job.lane
                self.mine.append(job)

    def let_go(self, how: str) -> None:
        """Let go of a job in one way or another; only what is certainly at no provider may be sent anew."""
        job = self.mine.pop() if self.mine else None
        with suppress(LeaseLost):
            if job and how == "parked":
                claiming.park(self.engine, job, how)
            elif job and how == "handed over":
                claiming.hand_back(self.engine, [job])
            elif job:
                claiming.retry(self.engine, job, how)
                self.at.pop(job.id, None)


STEPS: dict[str, Callable[[Walk], object]] = {
    "fal": lambda walk: walk.claim("fal"),
    "runway": lambda walk: walk.claim("runway"),
    "fal is ill": lambda walk: fell_ill(walk.engine, "fal"),
    "runway is ill": lambda walk: fell_ill(walk.engine, "runway"),
    "fal is tried": lambda walk: end_wait(walk.engine, "fal"),
    "runway is tried": lambda walk: end_wait(walk.engine, "runway"),
    "workers die": lambda walk: expire_claims(walk.engine),
    "time goes by": lambda walk: make_due(walk.engine),
    **{how: partial(Walk.let_go, how=how) for how in ("parked", "handed over", "refused", "failed")},
}


@pytest.mark.long
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=5, max_size=40))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_two_providers_ever_have_a_job_and_its_hold_stays(rich: sa.Engine, steps: list[str]) -> None:
    with transaction(rich, "test") as session:
        session.execute(sa.delete(controls))
        session.execute(sa.update(jobs).values(state=JobState.DEAD))
        session.execute(sa.delete(job_totals))
    make_user(rich, user := uuid4().hex, 100 * DOLLAR)
    wanted = [ask(rich, f"{number}", fox(seed=number), user=user) for number in range(3)]
    before, walk = balances(rich, user), Walk(rich)
    for step in steps:
        STEPS[step](walk)
    assert balances(rich, user) == before
    for job in (find(rich, answer.job_id) for answer in wanted if isinstance(answer, Queued)):
        assert job.lane in {"fal", "runway"}
        assert job.quoted_cost_microusd <= job.price_microusd
    with transaction(rich, "test") as session:
        session.execute(sa.update(jobs).values(state=JobState.DEAD))
        session.execute(sa.delete(job_totals))


def race(url: str, provider: str, seed: int, seconds: float) -> list[tuple[str, str, str]]:
    """Ask for videos, make some, fail some, leave some in doubt, and fall ill, all as fast as it goes."""
    engine, chance, book = open_engine(url), random.Random(seed), list[tuple[str, str, str]]()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        ask(engine, uuid4().hex, fox(seed=chance.randint(0, 10**6)))
        for claimed in claim(engine, f"{provider} {seed}", [None] * 9, limit=999, served=only(provider)):
            if claimed.provider_key or claimed.lane != provider:
                claiming.park(engine, claimed, "no answer")
                continue
            try:
                job = claiming.announce(engine, claimed, provider)
            except ProviderBusy as busy:
                claiming.retry(engine, claimed, "ill", busy=busy)
                continue
            book.append((job.id, provider, "sent"))
            if ["fal", "runway"][int(time.time() / 3) % 2] != provider:  # which is ill, in turns
                breaker.note_made(engine, provider, job.id, 1.0, 150.0, run_id="test")
                with transaction(engine, "test") as session:
                    assert endings.end(session, *job.fence, JobState.CANCELLED, cost_microusd=None) is not None
            elif chance.random() < 0.2:
                claiming.park(engine, job, "no answer")
                fell_ill(engine, provider)
            else:
                book.append((job.id, provider, "failed"))
                claiming.retry(engine, job, "failed", cost_microusd=7)
                fell_ill(engine, provider)
    engine.dispose()
    return book


@pytest.mark.long
@pytest.mark.parametrize("backend", ["sqlite_engine", "postgresql_engine"])
def test_workers_of_two_providers_that_fall_ill_at_once_never_send_a_job_to_both(
    request: pytest.FixtureRequest, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_FEWEST_ATTEMPTS": 6, "_ATTEMPTS": 10, "_WAIT_SECONDS": 1, "_LONGEST_WAIT_SECONDS": 1}.items():
        monkeypatch.setattr(rules, name, value)  # also in the forked processes
    monkeypatch.setattr(claiming, "pause_seconds", lambda *_: 1.0)
    engine = request.getfixturevalue(backend)
    make_user(engine, "ann", 10**6 * DOLLAR, tier="pro")
    put_in_force(engine, book=BOOK)
    url = engine.url.render_as_string(hide_password=False)
    with ProcessPoolExecutor(6, mp_context=FORKED) as pool:
        names = ["fal", "runway"] * 3
        books = list(pool.map(race, [url] * 6, names, range(6), [20.0] * 6))
    sent = Counter((job_id, what) for book in books for job_id, _, what in book)
    twice = {job_id for job_id, what in sent if what == "sent" and sent[job_id, "sent"] - sent[job_id, "failed"] > 1}
    lanes = {job_id: {name for book in books for job, name, _ in book if job == job_id} for job_id, _ in sent}
    assert not twice
    went_on = sum(len(names) == 2 for names in lanes.values())
    assert went_on, "the race came to it that a job went on to the other"
    with transaction(engine, "test") as session:  # what was ended here is counted in flight still
        ended = sa.select(jobs.c.lane, sa.func.sum(jobs.c.quoted_cost_microusd)).where(jobs.c.state == "cancelled")
        for lane, microusd in session.execute(ended.group_by(jobs.c.lane)).all():
            scopes = (f"provider:{lane}", "model:m", "tier:pro", "user:ann", job_totals_of.ALL)
            job_totals_of.add(session, scopes, {"": -int(microusd)})
    assert [found for found in accounts.recount(engine) if found.what == "in_flight"] == []


def test_a_second_provider_must_be_covered_by_the_quoted_price(rich: sa.Engine) -> None:
    put_in_force(rich, book=sold())
    job_id = queued(rich)
    put_in_force(rich, book=BOOK)
    fell_ill(rich, "fal")
    assert taken(rich, "runway") == []
    assert find(rich, job_id).lane == "fal"


@pytest.mark.parametrize("scope", ["provider:runway", "user:ann"])
@pytest.mark.parametrize("is_admitted_before", [True, False])
def test_a_job_waits_for_its_own_provider_where_the_budget_has_no_room_for_the_other(
    rich: sa.Engine, scope: str, is_admitted_before: bool
) -> None:
    limit = SpendLimit(scope=scope, period=Period.DAY, usd=Decimal("1.4"))
    put_in_force(rich, book=BOOK, admission=AdmissionPolicy(spend_limits=(limit,)))
    job_id = queued(rich) if is_admitted_before else ""
    fell_ill(rich, "fal")
    job_id = job_id or queued(rich)
    assert taken(rich, "runway") == []
    assert find(rich, job_id).lane == "fal"
    with reading(rich) as session:
        assert session.execute(sa.select(sa.func.max(job_totals.c.refusals))).scalar_one() == 0
    end_wait(rich, "fal")
    assert [job.id for job in taken(rich, "fal")] == [job_id]


def test_the_budget_of_all_jobs_is_kept_for_what_the_second_provider_costs_more(rich: sa.Engine) -> None:
    put_in_force(rich, book=BOOK, admission=AdmissionPolicy(daily_limit_usd=Decimal("1.4")))
    queued(rich)
    fell_ill(rich, "fal")
    assert taken(rich, "runway") == []
    assert isinstance(ask(rich, "k2", fox(seed=9, duration_seconds=20.0)), Declined)


def test_a_job_goes_to_no_provider_that_cannot_make_it_and_on_to_the_next(rich: sa.Engine) -> None:
    short = {"provider": "replicate", "price": second("0.2"), "limits": {"most_seconds": 4}}
    put_in_force(rich, book=sold(short, RUNWAY))
    fell_ill(rich, "fal")
    lanes = [find(rich, queued(rich, key, duration_seconds=s)).lane for key, s in (("a", 4.0), ("bb", 5.0))]
    assert lanes == ["replicate", "runway"]
    fell_ill(rich, "replicate", "runway")
    assert [find(rich, queued(rich, "ccc")).lane] == ["fal"]  # all are unwell: it waits for its own


def test_a_job_comes_back_to_the_first_provider_when_the_second_falls_ill(rich: sa.Engine) -> None:
    fell_ill(rich, "fal")
    job_id = queued(rich)
    cost = find(rich, job_id).quoted_cost_microusd
    fell_ill(rich, "runway")
    end_wait(rich, "fal")
    assert [job.id for job in taken(rich, "fal")] == [job_id]
    assert find(rich, job_id).quoted_cost_microusd == cost - 1_000_000


def test_a_provider_that_is_tried_gets_new_jobs_for_its_trial_and_the_others_go_elsewhere(rich: sa.Engine) -> None:
    begun: dict[str, dict[str, Any]] = {
        "runs": {"state": JobState.RUNNING, "lease_until": at(10**6)},
        "doubted": {"state": JobState.PARKED, "due_at": at(10**6)},
        "sent": {"provider_key": "sent"},
    }
    for name, more in begun.items():  # none of which waits to be sent
        put(rich, [waiting(name, lane="fal", model="m", **more)])
    fell_ill(rich, "fal")
    end_wait(rich, "fal")
    assert [find(rich, queued(rich, "k" * n)).lane for n in range(1, 5)] == ["fal", "fal", "runway", "runway"]


def test_an_offer_is_called_unwell_while_its_provider_gets_no_job_and_not_while_it_is_tried(rich: sa.Engine) -> None:
    def reasons() -> dict[str, Reason]:
        with reading(rich) as session:
            job = queue.find(session, job_id)
            assert job is not None
            return {verdict.provider: verdict.reason for verdict in routing.verdicts(session, job)}

    job_id = queued(rich)
    assert reasons() == {"fal": Reason.CHOSEN, "runway": Reason.DEARER}
    fell_ill(rich, "fal")
    assert reasons() == {"fal": Reason.UNWELL, "runway": Reason.CHOSEN}
    end_wait(rich, "fal")
    assert reasons() == {"fal": Reason.CHOSEN, "runway": Reason.DEARER}


def test_a_job_whose_version_cannot_be_read_now_stops_no_other_while_its_provider_is_unwell(rich: sa.Engine) -> None:
    version = put_in_force(rich, book=sold(RUNWAY, usd="0.2"))
    old = queued(rich, "old")
    put_in_force(rich, book=BOOK)
    new = queued(rich, "newer")
    of_old = sa.update(policy_versions).where(policy_versions.c.version == version)
    with transaction(rich, "test") as session:
        kept = session.execute(
            sa.select(policy_versions.c.document).where(policy_versions.c.version == version)
        ).scalar()
        session.execute(of_old.values(document={"of": "another version"}))
    fell_ill(rich, "fal")
    assert [job.id for job in taken(rich, "runway")] == [new]
    assert find(rich, old).lane == "fal"
    with transaction(rich, "test") as session:
        session.execute(of_old.values(document=kept))
    assert [job.id for job in taken(rich, "runway")] == [old]


def test_no_job_moves_to_another_provider_during_a_freeze(rich: sa.Engine) -> None:
    job_id = queued(rich)
    fell_ill(rich, "fal")
    freeze(rich, by="test", reason="a test")
    assert taken(rich, "runway") == []
    assert find(rich, job_id).lane == "fal"


def test_the_second_vendor_is_sent_its_own_name_of_the_model(shop: World, provider: ProviderDouble) -> None:
    engine = shop.workspace.engine
    flat = {"base_usd": "0.1", "compute_usd": "0.05", "api_usd": "0.05"}
    other = {"provider": "http", "vendor_model": "lab/m-2", "price": flat, "limits": {"audio": "choice"}}
    model = {"model": "m", "provider": "fal", "vendor_model": "fal/m", "price": flat, "offers": [other]}
    put_in_force(engine, book=PriceBook.model_validate({"models": [model]}))
    small = {"width": 64, "height": 64, "duration_seconds": 0.5, "fps": 8}
    assert isinstance(ask(engine, "k", fox(**small)), Queued)
    here = RemoteGenerator(HttpProvider(provider.url, TOKEN, allow_private=True), poll_seconds=0.05)
    assert run(shop, here) == {}
    fell_ill(engine, "fal")
    assert run(shop, here) == {End.SUCCEEDED: 1}
    (sent,) = provider.jobs.values()
    assert (sent["model"], sent["request"]["audio"]) == ("lab/m-2", True)
    with reading(engine) as session:
        assert session.execute(sa.select(jobs.c.lane, jobs.c.state)).one() == ("http", JobState.SUCCEEDED)
