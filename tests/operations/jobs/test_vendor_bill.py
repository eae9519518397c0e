"""A vendor's account against ours, after lost answers: equal to the micro-dollar, unknown jobs named."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import (
    FalProvider,
    OpenAIProvider,
    RemoteGenerator,
    ReplicateProvider,
    RunwayProvider,
)
from reelkeeper.adapters.providers.contract import Billing, Provider, Submission
from reelkeeper.errors import UsageUnknown
from reelkeeper.model.jobs import End
from reelkeeper.operations.jobs.charged import reconcile
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.vendor_bill import VendorComparison
from tests.adapters.providers.formats import FORMATS
from tests.adapters.providers.notes import ORDER
from tests.doubles.fal import FalDouble
from tests.doubles.runway import RunwayDouble
from tests.doubles.vendor import LOST
from tests.faults.world import World
from tests.operations.queue import make_due
from tests.operations.shop import ask, run
from tests.policies import put_in_force

MODEL = FORMATS["fal"].model
RATE = {"unit": "second", "rates": [{"usd": "0.1"}], "source": "a price list", "read_on": "2026-11-25"}
BOOK = PriceBook.model_validate({"models": [{"model": "a", "provider": "fal", "vendor_model": MODEL, "price": RATE}]})


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


@pytest.fixture
def fal(tiny_clip: Path) -> Iterator[FalDouble]:
    with FalDouble(tiny_clip.read_bytes()).serving() as double:
        yield double


@pytest.fixture
def provider(fal: FalDouble) -> FalProvider:
    connected = FORMATS["fal"].connect(fal)
    assert isinstance(connected, FalProvider)
    return connected


def generator(provider: Provider, model: str | None = None) -> RemoteGenerator:
    return RemoteGenerator(provider, model=model, poll_seconds=0.02)


def compared(world: World, billing: Billing, days: int = 1) -> VendorComparison:
    today = datetime.now(UTC).date()
    return reconcile(world.workspace.engine, billing, today - timedelta(days), today + timedelta(days=1))


def test_the_account_is_the_invoice_to_the_micro_dollar_where_answers_were_lost(
    shop: World, fal: FalDouble, provider: FalProvider
) -> None:
    put_in_force(shop.workspace.engine, book=BOOK)
    fal.queue = [LOST, LOST]
    mine = ask(shop, "a cat", "a dog", "a cow")
    assert run(shop, generator(provider)) == {End.SUCCEEDED: 3}
    found = compared(shop, provider)
    assert {bill.job_id for bill in found.both} == {*mine}
    assert (found.only_ours, found.only_theirs, found.differing) == ((), (), [])
    assert found.ours_nanousd == found.theirs_nanousd == fal.invoice_nanousd == 3 * 50_000_000

    provider.submit(Submission("somebody's", ORDER._replace(model=MODEL)))  # with our account's key, and not by us
    fal.jobs["p4"]["status"] = "succeeded"
    missing, dearer = fal.jobs.pop("p1"), fal.jobs["p2"]
    dearer["cost_nanousd"] = 50_000_000 + 1_000
    found = compared(shop, provider)
    (extra,) = found.only_theirs
    assert (extra.id, extra.model, extra.cost_nanousd) == ("fal-ai/veo3.1/requests/p4", MODEL, 500_000_000)
    assert [job.vendor_id for job in found.only_ours] == [f"fal-ai/veo3.1/requests/{missing['id']}"]
    assert [(bill.vendor_id, bill.difference_nanousd) for bill in found.differing] == [
        ("fal-ai/veo3.1/requests/p2", 1_000)
    ]
    assert found.theirs_nanousd == fal.invoice_nanousd == 600_001_000


def test_an_attempt_that_came_to_nothing_is_known_by_its_seed(
    shop: World, fal: FalDouble, provider: FalProvider
) -> None:
    put_in_force(shop.workspace.engine, book=BOOK)
    fal.end_as("expired")
    (lost,) = ask(shop, "a cat")
    assert run(shop, generator(provider)) == {End.RETRIED: 1}
    found = compared(shop, provider)
    assert [(bill.job_id, bill.ours_nanousd, bill.theirs_nanousd) for bill in found.both] == [
        (lost, 50_000_000, 50_000_000)
    ]
    assert found.only_theirs == ()


@pytest.mark.long
@pytest.mark.parametrize(("name", "kind"), [("replicate", ReplicateProvider), ("openai", OpenAIProvider)])
def test_a_vendor_that_names_no_costs_still_names_its_jobs(
    shop: World, tiny_clip: Path, name: str, kind: type[Any]
) -> None:
    with FORMATS[name].double(tiny_clip.read_bytes()).serving() as vendor:
        provider, model = FORMATS[name].connect(vendor), FORMATS[name].model
        assert isinstance(provider, kind)
        (mine,) = ask(shop, "a cat")
        assert run(shop, generator(provider, model)) == {End.SUCCEEDED: 1}
        provider.submit(Submission("somebody's", ORDER._replace(model=model)))
        vendor.end_as("failed" if name == "replicate" else "succeeded")
        ask(shop, "a dog")
        run(shop, generator(provider, model), limit=lambda: 1)
        make_due(shop.workspace.engine)
        vendor.end_as("succeeded")
        run(shop, generator(provider, model))
        found = compared(shop, provider)
    assert (len(found.both), found.requests) == (len(vendor.jobs) - 1, 2)
    assert mine in {bill.job_id for bill in found.both}
    assert [(entry.id, entry.cost_nanousd) for entry in found.only_theirs] == [("p2", None)]
    assert (found.only_ours, found.differing, found.theirs_nanousd) == ((), [], None)
    assert found.ours_nanousd > 0


def test_a_vendor_that_names_no_jobs_is_compared_by_its_sum(shop: World, tiny_clip: Path) -> None:
    with RunwayDouble(tiny_clip.read_bytes()).serving() as vendor:
        provider = FORMATS["runway"].connect(vendor)
        assert isinstance(provider, RunwayProvider)
        ask(shop, "a cat", "a dog")
        assert run(shop, generator(provider, "gen4.5")) == {End.SUCCEEDED: 2}
        found = compared(shop, provider)
        assert [(entry.model, entry.cost_nanousd) for entry in found.sums] == [("gen4.5", 2 * 600_000_000)]
        assert (found.ours_nanousd, len(found.summed)) == (found.theirs_nanousd, 2)
        vendor.queue = [LOST]
        ask(shop, "a cow")
        assert run(shop, generator(provider, "gen4.5")) == {End.PARKED: 1}
        vendor.look(vendor.jobs["p3"])
        found = compared(shop, provider)
        assert (found.theirs_nanousd or 0) - found.ours_nanousd == 600_000_000  # paid, and in doubt here
        vendor.is_down = True
        with pytest.raises(UsageUnknown, match="503"):
            compared(shop, provider)


def test_a_vendor_that_does_not_answer_whole_is_not_taken_for_one_that_bills_nothing(
    shop: World, fal: FalDouble, provider: FalProvider
) -> None:
    event = {"request_id": "p1", "endpoint_id": MODEL, "timestamp": "2026-11-26T10:00:00Z"}
    for answer in ({}, {"billing_events": [event | {"cost_estimate_nano_usd": None}]}):
        fal.reads = [(200, answer)]
        with pytest.raises(UsageUnknown, match="fal"):
            reconcile(shop.workspace.engine, provider, date(2026, 11, 1), date(2026, 11, 30))
