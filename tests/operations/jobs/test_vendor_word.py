"""What vendors state that jobs cost beats the book, within bounds: in budgets, the bill and the choice of an offer."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import RemoteGenerator
from reelkeeper.adapters.providers.contract import Generators
from reelkeeper.model.jobs import End, JobState
from reelkeeper.model.money import Metric
from reelkeeper.model.requests import GenerationRequest, Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.billing.metering import charge
from reelkeeper.operations.billing.users import costs_by_user
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.rules.billing.allocation import CLOUDFLARE
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.tables import alerts, jobs, usage_days, vendor_jobs
from tests.adapters.providers.formats import FORMATS
from tests.doubles.fal import FalDouble
from tests.doubles.provider import ProviderDouble
from tests.doubles.replicate import ReplicateDouble
from tests.doubles.runway import CREDITS, RunwayDouble
from tests.doubles.vendor import Vendor
from tests.faults.world import World
from tests.operations.books import DOLLAR, balances
from tests.operations.queue import make_due
from tests.operations.shop import SMALL, budget_spent, http, run
from tests.policies import put_in_force

GPU_USD = Decimal("0.001")  # a second of Replicate's
READ = {"source": "a list", "read_on": "2026-11-25"}
PRICES: dict[str, dict[str, Any]] = {  # of half a second: 40,000; 15,000; 600,000; 500,000
    "fal": {"unit": "second", "rates": [{"usd": "0.08"}]},
    "replicate": {"unit": "gpu_second", "rates": [{"usd": str(GPU_USD), "gpu_seconds": 30}]},
    "runway": {"unit": "clip", "rates": [{"usd": "0.6"}]},
    "http": {"unit": "clip", "rates": [{"usd": "0.5"}]},
}


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


@pytest.fixture
def vendors(shop: World, tiny_clip: Path) -> Iterator[dict[str, Vendor]]:
    """Four in one worker. fal takes a quarter more than the book has, Replicate a sixth less, the others as booked."""
    sold = [
        {"model": name, "provider": name, "vendor_model": FORMATS[name].model, "price": price | READ}
        for name, price in PRICES.items()
    ]
    put_in_force(shop.workspace.engine, book=PriceBook.model_validate({"models": sold}))
    with transaction(shop.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 99 * DOLLAR, "more", run_id="test")
    with ExitStack() as serving:
        found = {name: serving.enter_context(FORMATS[name].double(tiny_clip.read_bytes()).serving()) for name in PRICES}
        assert isinstance(found["http"], ProviderDouble)
        found["http"].ends_as["cost_usd"] = "0.5"
        yield found


def ask(shop: World, model: str, prompt: str) -> str:
    request = GenerationRequest.model_validate({**SMALL, "model": model, "prompt": prompt})
    answer = admit(shop.workspace.engine, request, user_id="ann", client_key=f"{model} {prompt}")
    assert isinstance(answer, Queued), answer
    return answer.job_id


def work(shop: World, vendors: dict[str, Vendor]) -> None:
    made = {name: RemoteGenerator(FORMATS[name].connect(each), poll_seconds=0.02) for name, each in vendors.items()}
    for _ in range(3):
        run(shop, Generators(made, None))  # type: ignore[arg-type]  # as `work` takes them
        make_due(shop.workspace.engine)


def invoices(vendors: dict[str, Vendor]) -> dict[str, int]:
    """What each vendor bills for its jobs, by its own book, in micro-dollars."""
    fal, replicate, runway = vendors["fal"], vendors["replicate"], vendors["runway"]
    assert isinstance(fal, FalDouble)
    assert isinstance(replicate, ReplicateDouble)
    assert isinstance(runway, RunwayDouble)
    return {
        "fal": fal.invoice_nanousd // 1_000,
        "replicate": int(len(replicate.jobs) * Decimal(replicate.predict_seconds) * GPU_USD * DOLLAR),
        "runway": sum(runway.credits_of(job) for job in runway.jobs.values()) * 10_000,
        "http": sum(int(Decimal(job["cost_usd"]) * DOLLAR) for job in vendors["http"].jobs.values()),
    }


def counted(shop: World) -> tuple[dict[str, int], int]:
    """What counts for each vendor's jobs, and what the account's bill has for them."""
    by_vendor = sa.select(vendor_jobs.c.provider, sa.func.sum(vendor_jobs.c.counted_microusd))
    billed = sa.select(sa.func.sum(usage_days.c.quantity)).where(
        usage_days.c.metric == Metric.JOB_MICROUSD, usage_days.c.user_id == ""
    )
    with reading(shop.workspace.engine) as session:
        rows = session.execute(by_vendor.group_by(vendor_jobs.c.provider)).all()
        return {provider: int(total) for provider, total in rows}, int(session.execute(billed).scalar_one())


def charges_of(shop: World) -> tuple[dict[str, int], dict[str, int]]:
    """Charge the month, and return what each vendor's jobs cost in all, and of that ann, in micro-dollars."""
    with reading(shop.workspace.engine) as session:
        as_of, book = now(session), in_force(session).policies.book
    charge(shop.workspace.engine, book, as_of)
    with reading(shop.workspace.engine) as session:
        found = costs_by_user(session, as_of.date(), as_of.date()).by_provider
    of_vendors = [
        {name: nanousd // 1_000 for name, nanousd in found[user].items() if name != CLOUDFLARE} for user in ("", "ann")
    ]
    return dict(sum(map(Counter, of_vendors), Counter[str]())), of_vendors[1]


def told(shop: World) -> list[tuple[str, str]]:
    """Of which models people were told: of an absurd figure, once a day, or of a price, once for each of the book's."""
    chosen = sa.select(alerts.c.scope, alerts.c.period).where(alerts.c.rule == "vendor_cost").order_by(alerts.c.scope)
    with reading(shop.workspace.engine) as session:
        return [(row.scope, "absurd" if "-" in row.period else "price") for row in session.execute(chosen)]


def test_charges_budgets_and_bill_equal_the_vendors_own_bills_and_a_drifted_price_is_told_once(
    shop: World, vendors: dict[str, Vendor]
) -> None:
    before = balances(shop.workspace.engine, "ann")[0]
    for prompt in ("a cat", "a dog", "a fox"):
        for name in vendors:
            ask(shop, name, prompt)
    work(shop, vendors)
    for name, vendor in vendors.items():  # and each makes one for nothing
        vendor.end_as("failed" if name in ("fal", "replicate") else "moderated")
        ask(shop, name, "a cow")
    work(shop, vendors)
    bills = invoices(vendors)
    assert {name: len(vendor.jobs) for name, vendor in vendors.items()} == {
        "fal": 5,  # a failed one is tried once more
        "replicate": 5,
        "runway": 4,
        "http": 4,
    }
    assert bills == {"fal": 150_000, "replicate": 62_500, "runway": 4 * CREDITS * 10_000, "http": 2_000_000}
    by_vendor, billed = counted(shop)
    assert by_vendor == bills
    assert billed == sum(bills.values())
    charged, anns = charges_of(shop)
    assert charged == bills
    assert anns == {"fal": 3 * 40_000, "replicate": 3 * 12_500, "runway": 3 * CREDITS * 10_000, "http": 3 * 500_000}
    with reading(shop.workspace.engine) as session:
        made = session.execute(sa.select(jobs).where(jobs.c.state == JobState.SUCCEEDED)).all()
    assert len(made) == 12
    booked = {"fal": 40_000, "replicate": 15_000, "runway": 600_000, "http": 500_000}
    storage = sum(row.quoted_cost_microusd - booked[row.model] for row in made)
    assert 0 < storage <= len(made) * 10
    assert budget_spent(shop) == sum(bills.values()) + storage
    assert balances(shop.workspace.engine, "ann") == (before - sum(row.price_microusd for row in made), 0)
    assert told(shop) == [("model:fal", "price"), ("model:replicate", "price")]


@pytest.mark.parametrize(
    ("name", "said", "counts"),
    [
        ("http", "10", 10_000_000),  # a dear clip
        ("http", "10.01", 500_000),
        ("http", "1e9", 500_000),
        ("http", "0", 0),  # a server of one's own
    ],
)
def test_an_absurd_figure_is_an_alert_and_not_a_cost(
    shop: World, vendors: dict[str, Vendor], name: str, said: str, counts: int
) -> None:
    vendors["http"].ends_as["cost_usd"] = said
    job_id = ask(shop, name, "a cat")
    work(shop, vendors)
    assert counted(shop) == ({"http": counts}, counts)
    with reading(shop.workspace.engine) as session:
        job = session.execute(sa.select(jobs).where(jobs.c.id == job_id)).one()
        stated = session.execute(sa.select(vendor_jobs.c.reported_microusd)).scalar_one()
    assert stated == min(int(Decimal(said) * DOLLAR), 10**10)  # kept all the same
    assert budget_spent(shop) == job.quoted_cost_microusd - 500_000 + counts
    is_absurd = counts == 500_000
    assert job.cost_microusd == (None if is_absurd else counts)
    assert told(shop) == {10_000_000: [("model:http", "price")], 0: []}.get(counts, [("model:http", "absurd")])


def test_a_vendor_that_states_next_to_nothing_counts_as_the_book_has_it(
    shop: World, vendors: dict[str, Vendor]
) -> None:
    assert isinstance(vendors["fal"], FalDouble)
    vendors["fal"].second_nanousd = 7_000_000  # $.0035 a clip
    ask(shop, "fal", "a cat")
    work(shop, vendors)
    assert counted(shop) == ({"fal": 40_000}, 40_000)


def test_a_price_that_cannot_be_read_leaves_the_book_in_force(shop: World, vendors: dict[str, Vendor]) -> None:
    vendors["fal"].weather = lambda what, path: (503, None) if (what, path) == ("read", "/v1/models/pricing") else None
    job_id = ask(shop, "fal", "a cat")
    work(shop, vendors)
    with reading(shop.workspace.engine) as session:
        assert session.execute(sa.select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one() == JobState.SUCCEEDED
    assert counted(shop) == ({"fal": 40_000}, 40_000)


def test_the_seconds_of_a_prediction_are_no_cost_where_it_is_billed_by_its_video_or_its_instance(
    shop: World, vendors: dict[str, Vendor]
) -> None:
    prices = {
        "wan-video/wan-2.7": {"unit": "clip", "rates": [{"usd": "0.2"}]},
        "deployments/us/ours": PRICES["replicate"],
    }
    sold = [
        {"model": name, "provider": "replicate", "vendor_model": name, "price": price | READ}
        for name, price in prices.items()
    ]
    put_in_force(shop.workspace.engine, book=PriceBook.model_validate({"models": sold}))
    for name in prices:
        ask(shop, name, "a cat")
    work(shop, vendors)
    assert counted(shop) == ({"replicate": 215_000}, 215_000)
    assert told(shop) == []


def test_an_absurd_cost_of_a_failed_job_counts_as_the_book_has_it(shop: World, provider: ProviderDouble) -> None:
    provider.ends_as |= {"status": "refused", "cost_usd": "9999"}
    ask(shop, "a", "a cat")
    assert run(shop, http(provider)) == {End.REFUSED: 1}
    with reading(shop.workspace.engine) as session:
        assert budget_spent(shop) == session.execute(sa.select(jobs.c.quoted_cost_microusd)).scalar_one()
