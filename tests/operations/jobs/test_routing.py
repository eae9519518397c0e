"""Which vendor gets a job of a model that several make, and that no budget or cap of a vendor is exceeded by it."""

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.errors import ProviderFull
from reelkeeper.model.jobs import Served
from reelkeeper.model.requests import Queued
from reelkeeper.operations.health import accounts
from reelkeeper.operations.jobs import breaker, routing
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.operations.jobs.settle import Attempt, fail, succeed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.routing import Reason, RoutingPolicy
from reelkeeper.rules.spend.budget import Period
from reelkeeper.rules.spend.limits import SpendLimit
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import open_engine, reading
from reelkeeper.store.jobs import queue
from reelkeeper.store.tables import jobs
from tests.children import FORKED
from tests.operations.asking import ask, fox, make, row
from tests.operations.books import DOLLAR, make_user
from tests.policies import put_in_force

BOTH = Served(frozenset({"fal", "runway"}), None)


def second(usd: str) -> dict[str, Any]:
    return {"unit": "second", "rates": [{"usd": usd}], "source": "a price list", "read_on": "2026-11-25"}


DEAR, CHEAP = second("0.3"), second("0.2")  # five seconds: $1.50 and $1.00
MODEL = {"model": "m", "provider": "fal", "price": DEAR, "offers": [{"provider": "runway", "price": CHEAP}]}
BOOK = PriceBook.model_validate({"models": [MODEL]})


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    make_user(sqlite_engine, "ann", 1000 * DOLLAR, tier="pro")
    return sqlite_engine


def lanes(engine: sa.Engine, *keys: str) -> list[str]:
    answers = [ask(engine, key, fox(prompt=key)) for key in keys]
    assert all(isinstance(answer, Queued) for answer in answers), answers
    return [str(row(engine, answer.job_id).lane) for answer in answers if isinstance(answer, Queued)]


def cap(jobs_at_once: int) -> ConcurrencyPolicy:
    return ConcurrencyPolicy(caps=(Cap(scope="provider:runway", jobs=jobs_at_once),))


@pytest.mark.parametrize(("rule", "lane", "cost"), [("cheapest", "runway", 1_000_000), ("first", "fal", 1_500_000)])
def test_a_job_goes_to_the_cheapest_offer_at_the_price_that_covers_the_dearest(
    engine: sa.Engine, rule: str, lane: str, cost: int
) -> None:
    put_in_force(engine, book=BOOK, routing=RoutingPolicy.model_validate({"rule": rule}))
    answer = ask(engine, "k")
    assert isinstance(answer, Queued)
    job = row(engine, answer.job_id)
    assert (job.lane, answer.price_microusd) == (lane, job.price_microusd)
    assert 0 <= job.quoted_cost_microusd - cost < 2_000  # and storage
    assert job.price_microusd >= 1_500_000 * 3 // 2  # the dearest, and the margin of the model's own price


def test_an_offer_at_its_cap_is_waited_for_as_long_as_the_limit_says(engine: sa.Engine) -> None:
    put_in_force(engine, book=BOOK, concurrency=cap(1), routing=RoutingPolicy(wait_limit_seconds=0))
    assert lanes(engine, "a", "b") == ["runway", "fal"]
    put_in_force(engine, book=BOOK, concurrency=cap(1), routing=RoutingPolicy(wait_limit_seconds=400))
    assert Counter(lanes(engine, *"cdefgh")) == {"runway": 3, "fal": 3}  # 120 s each: three more begin within 400 s
    put_in_force(engine, book=BOOK, concurrency=cap(1), routing=RoutingPolicy(wait_limit_seconds=None))
    assert Counter(lanes(engine, *"ijkl")) == {"runway": 4}


def test_a_full_budget_of_one_vendor_sends_jobs_to_the_next(engine: sa.Engine) -> None:
    limit = SpendLimit(scope="provider:runway", period=Period.DAY, usd=Decimal("2.01"))
    put_in_force(engine, book=BOOK, admission=AdmissionPolicy(spend_limits=(limit,)))
    assert lanes(engine, *"abcd") == ["runway", "runway", "fal", "fal"]


def test_a_job_waits_for_an_unwell_vendor_whose_budget_has_room_where_no_other_can_take_it(engine: sa.Engine) -> None:
    limit = SpendLimit(scope="provider:fal", period=Period.DAY, usd=Decimal("0.01"))
    put_in_force(engine, book=BOOK, admission=AdmissionPolicy(spend_limits=(limit,)))
    for _ in range(20):
        breaker.note_failed(engine, "runway", "j", "no answer", is_locked=True, run_id="test")
    assert lanes(engine, "a") == ["runway"]


def test_a_vendor_that_charges_for_jobs_without_a_video_loses_its_lead_and_earns_it_back(engine: sa.Engine) -> None:
    put_in_force(engine, book=BOOK)

    def fails(key: str, cost: int | None) -> str:
        (lane,) = lanes(engine, key)
        (job,) = claim(engine, "w", [None], limit=99, served=BOTH)
        job = claiming.announce(engine, job, lane)
        fail(
            engine,
            Attempt(*job.fence, cost if lane == "runway" else None, provider_key=job.provider_key),
            "moderated",
            run_id="test",
        )
        return lane

    free = [fails(f"free {number}", None) for number in range(12)]
    assert free == ["runway"] * 12  # what is not charged costs nothing
    charged = [fails(f"charged {number}", 1_000_000) for number in range(14)]
    assert charged == ["runway"] * charged.count("runway") + ["fal"] * charged.count("fal")
    assert 10 <= charged.count("runway") <= 12  # half as much again as fal's lead: 20 presumed, half of them lost


def delivered(engine: sa.Engine, key: str, runways: int | None = None) -> str:
    """Return the vendor that a job went to, of which only `runways` states a cost."""
    (lane,) = lanes(engine, key)
    (job,) = claim(engine, "w", [None], limit=99, served=BOTH)
    make(engine, job.id)
    succeed(engine, Attempt(job.id, job.lease_token, runways if lane == "runway" else None), run_id="test")
    return lane


def test_a_vendor_that_takes_more_than_the_book_has_loses_its_lead_until_the_book_is_corrected(
    engine: sa.Engine,
) -> None:
    put_in_force(engine, book=BOOK)
    went = [delivered(engine, f"dear {number}", 3_000_000) for number in range(4)]
    assert went == ["runway", "fal", "fal", "fal"]  # (2 + 3) / (2 + 1) of the booked price, and fal's is 3 / 2 of it
    corrected = MODEL | {"offers": [{"provider": "runway", "price": second("0.28")}]}
    put_in_force(engine, book=PriceBook.model_validate({"models": [corrected]}))
    assert delivered(engine, "corrected") == "runway"


def test_a_delivered_video_counts_for_its_vendor(engine: sa.Engine) -> None:
    put_in_force(engine, book=BOOK)
    delivered(engine, "k")
    with reading(engine) as session:
        records = controls.remembered(session, ["records"])["records"]
    assert records == {"runway m": [1.0, 0.0, 0.0, 0.0, BOOK.price_mark("m", "runway")]}


def test_a_waiting_job_says_why_each_offer_was_chosen_or_not(engine: sa.Engine) -> None:
    put_in_force(engine, book=BOOK)
    answer = ask(engine, "k")
    assert isinstance(answer, Queued)
    with reading(engine) as session:
        job = queue.find(session, answer.job_id)
        assert job is not None
        found = {verdict.provider: verdict.reason for verdict in routing.verdicts(session, job)}
    assert found == {"fal": Reason.DEARER, "runway": Reason.CHOSEN}


def request_many(url: str, name: str) -> None:
    engine = open_engine(url)
    for number in range(30):
        ask(engine, f"{name} {number}", fox(prompt=f"{name} {number}"))
        for job in claim(engine, name, [None] * 2, limit=999, served=BOTH):
            assert job.lane is not None
            with suppress(ProviderFull):  # it has answered none of the first
                claiming.announce(engine, job, job.lane)
    engine.dispose()


@pytest.mark.long
@pytest.mark.parametrize("backend", ["sqlite_engine", "postgresql_engine"])
def test_parallel_requests_and_kills_exceed_no_vendors_budget_or_cap(
    request: pytest.FixtureRequest, backend: str
) -> None:
    engine = request.getfixturevalue(backend)
    make_user(engine, "ann", 1000 * DOLLAR, tier="pro")
    limit = SpendLimit(scope="provider:runway", period=Period.DAY, usd=Decimal("10.5"))
    never = RoutingPolicy(wait_limit_seconds=None)
    admission = AdmissionPolicy(spend_limits=(limit,))
    put_in_force(engine, book=BOOK, admission=admission, concurrency=cap(4), routing=never)
    url = engine.url.render_as_string(hide_password=False)
    children = [FORKED.Process(target=request_many, args=(url, f"w{number}")) for number in range(4)]
    for child in children:
        child.start()
    time.sleep(0.5)
    with suppress(ProcessLookupError):  # a quick machine
        os.kill(int(children[0].pid or 0), signal.SIGKILL)
    for child in children:
        child.join()
    with reading(engine) as session:
        found = Counter(session.execute(sa.select(jobs.c.lane)).scalars())
        sent = Counter(session.execute(sa.select(jobs.c.provider).where(jobs.c.provider_key.is_not(None))).scalars())
        held = Counter(session.execute(sa.select(jobs.c.lane).where(jobs.c.state == "running")).scalars())
    assert found["runway"] == 10
    assert found["fal"] >= 3 * 30 - 10
    assert held["runway"] == 4
    assert sent["runway"] in {3, 4}  # the killed process may have claimed one that it never sent
    assert accounts.recount(engine) == []
