"""A result that cannot be read is fetched again, parked and told, and bought again only at a person's word.

Slow: each case takes a job through several workers, to a vendor over HTTP, and mostly to a stored video.
"""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import RemoteGenerator
from reelkeeper.errors import Refused
from reelkeeper.model.jobs import End, JobState
from reelkeeper.operations.jobs.claim import redrive
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.tables import alerts, audit_events, jobs
from tests.doubles.vendor import CUT, HTML, Next, Vendor
from tests.faults.world import World
from tests.operations.queue import assert_pause, find, make_due
from tests.operations.shop import ask, budget_spent, run, spent

REST = ("replicate", "runway", "openai")  # as fal bills
LARGE = 200, b"x" * 2_000_000

BOOKED, STATED = 15_000, 50_000  # of a clip, in micro-dollars: by the price book, and by fal


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


def told(shop: World) -> list[str]:
    with reading(shop.workspace.engine) as session:
        return list(session.execute(sa.select(alerts.c.text).where(alerts.c.rule == "unreadable_result")).scalars())


def begin(shop: World, vendor: Vendor, generator: RemoteGenerator) -> str:
    """Have a vendor begin a job that does not end, and leave it there."""
    vendor.looks = 10**6
    (job_id,) = ask(shop, "a cat")
    assert run(shop, generator, seconds=1, until_idle=False) == {End.HANDED_OVER: 1}
    return job_id


def a_day_later(shop: World) -> None:
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(started_at=Clock(-25 * 3600), due_at=Clock(-1)))


@pytest.mark.parametrize(
    ("format_", "result"),
    [
        *(("fal", result) for result in (HTML, CUT, LARGE)),
        ("runway", (404, None)),
        *((name, HTML) for name in REST),
    ],
    indirect=["format_"],
)
def test_a_result_that_cannot_be_read_is_fetched_again_and_never_bought_again(
    vendor: Vendor, generator: RemoteGenerator, shop: World, result: Next
) -> None:
    vendor.files = [result] * 99
    (job_id,) = ask(shop, "a cat")
    assert run(shop, generator) == {End.RETRIED: 1}
    for _ in range(3):
        make_due(shop.workspace.engine)
        with reading(shop.workspace.engine) as session:
            began = now(session)
        assert run(shop, generator) == {End.PARKED: 1}
        assert_pause(shop.workspace.engine, job_id, timedelta(minutes=10), began)
    job = find(shop.workspace.engine, job_id)
    assert (job.state, len(vendor.submitted)) == (JobState.PARKED, 1)
    (text,) = told(shop)
    assert "/p1" in job.error
    assert "_jwt" not in job.error  # whoever reads of it could fetch the video
    assert job.error in text
    vendor.files = []
    make_due(shop.workspace.engine)
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert (spent(shop), len(vendor.submitted)) == (job.price_microusd, 1)


@pytest.mark.parametrize("format_", ["http", "comfyui"], indirect=True)
def test_a_server_of_ones_own_makes_it_again(vendor: Vendor, generator: RemoteGenerator, shop: World) -> None:
    vendor.files = [HTML]
    ask(shop, "a cat")
    assert run(shop, generator) == {End.RETRIED: 1}
    make_due(shop.workspace.engine)
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert (len(vendor.submitted), told(shop)) == (2, [])


@pytest.mark.parametrize("format_", ["fal", *REST], indirect=True)
def test_a_job_that_its_vendor_does_not_find_is_looked_up_for_a_day_and_not_given_up(
    vendor: Vendor, generator: RemoteGenerator, shop: World
) -> None:
    job_id = begin(shop, vendor, generator)
    sent, vendor.jobs = dict(vendor.jobs), {}
    for _ in range(3):
        make_due(shop.workspace.engine)
        assert run(shop, generator) == {End.PARKED: 1}
    vendor.jobs, vendor.looks = sent, 1
    make_due(shop.workspace.engine)
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert (find(shop.workspace.engine, job_id).state, len(vendor.submitted)) == (JobState.SUCCEEDED, 1)


@pytest.mark.parametrize("format_", ["fal", "http", *REST, "comfyui"], indirect=True)
def test_a_job_that_never_ends_is_cancelled_there_and_dead_after_a_day(
    vendor: Vendor, generator: RemoteGenerator, shop: World
) -> None:
    job_id = begin(shop, vendor, generator)
    a_day_later(shop)
    assert run(shop, generator, seconds=5) == {End.DEAD: 1}
    job = find(shop.workspace.engine, job_id)
    assert (job.state, vendor.cancelled, len(vendor.submitted)) == (JobState.DEAD, ["p1"], 1)
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd)


@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize("format_", ["fal", "comfyui"], indirect=True)
def test_what_its_vendor_may_charge_for_a_job_that_was_cancelled_there_counts(
    vendor: Vendor, generator: RemoteGenerator, shop: World, is_late: bool
) -> None:
    job_id = begin(shop, vendor, generator)
    if is_late:  # the answers are lost from the moment that we cancel it
        a_day_later(shop)
        vendor.weather = lambda *_: (502, b"<html>") if vendor.cancelled else None
        assert run(shop, generator, seconds=5) == {End.PARKED: 1}
        vendor.weather = lambda *_: None
    else:
        vendor.cancel(vendor.jobs["p1"])
    make_due(shop.workspace.engine)
    assert run(shop, generator, seconds=5) == ({End.DEAD: 1} if is_late else {End.RETRIED: 1})
    job = find(shop.workspace.engine, job_id)
    assert (len(vendor.submitted), vendor.cancelled, budget_spent(shop)) == (1, ["p1"], job.quoted_cost_microusd)


def park(shop: World, vendor: Vendor, generator: RemoteGenerator) -> str:
    """Have a video made that cannot be read, and fetched until its job is parked."""
    vendor.files = [HTML] * 99
    (job_id,) = ask(shop, "a cat")
    run(shop, generator)
    make_due(shop.workspace.engine)
    assert run(shop, generator) == {End.PARKED: 1}
    return job_id


@pytest.mark.parametrize("format_", ["fal"], indirect=True)
@pytest.mark.parametrize("is_dead", [False, True])
def test_a_person_has_it_fetched_again_parked_or_dead_and_it_is_paid_once(
    vendor: Vendor, generator: RemoteGenerator, shop: World, is_dead: bool
) -> None:
    engine, job_id = shop.workspace.engine, park(shop, vendor, generator)
    if is_dead:
        a_day_later(shop)
        assert run(shop, generator) == {End.DEAD: 1}
        assert (spent(shop), budget_spent(shop)) == (0, STATED)
    vendor.files = []
    redrive(engine, job_id, author="bea")
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert (spent(shop), len(vendor.submitted)) == (find(engine, job_id).price_microusd, 1)


@pytest.mark.parametrize("format_", ["fal"], indirect=True)
def test_a_person_buys_another_one_and_both_count(vendor: Vendor, generator: RemoteGenerator, shop: World) -> None:
    engine, job_id = shop.workspace.engine, park(shop, vendor, generator)
    vendor.files = []
    redrive(engine, job_id, author="bea", buy_again=True)
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    job = find(engine, job_id)
    assert (spent(shop), len(vendor.submitted)) == (job.price_microusd, 2)
    assert budget_spent(shop) == 2 * job.quoted_cost_microusd - BOOKED + STATED  # the second is known to the cent
    with reading(engine) as session:
        said = session.execute(sa.select(audit_events).where(audit_events.c.event == "redrive")).one()
    assert (said.run_id, said.detail["buy_again"]) == ("bea", True)
    assert said.detail["provider_job"].endswith("/p1")


@pytest.mark.parametrize("format_", ["fal"], indirect=True)
def test_a_job_at_work_is_not_bought_again(vendor: Vendor, generator: RemoteGenerator, shop: World) -> None:
    job_id = begin(shop, vendor, generator)
    with pytest.raises(Refused):
        redrive(shop.workspace.engine, job_id, author="bea", buy_again=True)
    vendor.looks = 1
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert len(vendor.submitted) == 1
