"""What vendors take is kept in the store, for all workers: who may send, who waits, and what is shown of it."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
import sqlalchemy as sa

from reelkeeper.errors import ProviderFull
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs import lanes
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.operations.jobs.lanes import Vendor, VendorState, picture
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.spend.limits import SpendLimit
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.jobs.claims import Claim
from tests.operations.books import make_user
from tests.operations.queue import end_hold, enqueue, find, only, row
from tests.policies import put_in_force

FULL = ProviderFull("it has enough", 30.0, is_rate=False)
FAST = ProviderFull("too fast", 30.0, is_rate=True)


@pytest.fixture
def queue(engine: sa.Engine) -> sa.Engine:
    make_user(engine, "ann")
    enqueue(engine, *(row(f"f{number}", lane="fal") for number in range(9)))
    return engine


def take(engine: sa.Engine, slots: int = 9) -> list[Claim]:
    return claim(engine, "w", [None] * slots, limit=99)


def announced(engine: sa.Engine, *jobs: Claim) -> list[Claim]:
    return [claiming.announce(engine, job, "fal") for job in jobs]


def accepted(engine: sa.Engine, *jobs: Claim) -> list[Claim]:
    return [claiming.note_sent(engine, job, f"p{job.id}") for job in announced(engine, *jobs)]


def refused(engine: sa.Engine, job: Claim, how: ProviderFull = FULL) -> None:
    claiming.retry(engine, job, str(how), busy=how)


def vendor(engine: sa.Engine) -> Vendor:
    with reading(engine) as session:
        return picture(session)[0]


def test_a_vendor_gets_one_job_for_each_that_ends_until_it_refuses_that_too(queue: sa.Engine) -> None:
    first, second, third = take(queue, 3)
    here = accepted(queue, first, second)
    refused(queue, announced(queue, third)[0])
    job = find(queue, third.id)
    assert (job.state, job.attempts, job.provider_key) == ("queued", 0, None)
    assert (vendor(queue).state, vendor(queue).limit, vendor(queue).running) == (VendorState.FULL, 2, 2)
    assert take(queue) == []
    claiming.note_over(queue, here[0])  # while it is fetched
    (freed,) = take(queue)
    assert freed.id == third.id, "it has not lost its place"
    refused(queue, announced(queue, freed)[0])
    claiming.note_over(queue, here[1])
    assert (vendor(queue).state, vendor(queue).limit, vendor(queue).running) == (VendorState.HELD, 1, 0)
    assert take(queue) == []
    end_hold(queue, "fal")
    accepted(queue, *take(queue))
    assert (vendor(queue).state, vendor(queue).running) == (VendorState.FULL, 1)
    accepted(queue, *take(queue))  # one more than the limit
    assert (vendor(queue).limit, vendor(queue).running) == (2, 2)


def test_of_a_crowd_a_few_are_sent_before_a_vendor_has_answered_and_none_after_it_refused(queue: sa.Engine) -> None:
    crowd = take(queue)
    sent = announced(queue, *crowd[:4])
    with pytest.raises(ProviderFull) as soon:
        announced(queue, crowd[4])
    assert soon.value.seconds < 1
    claiming.note_sent(queue, sent[0], "p0")
    refused(queue, sent[1])
    with pytest.raises(ProviderFull):
        announced(queue, crowd[4])
    assert find(queue, crowd[4].id).provider_key is None
    refused(queue, crowd[4])  # by us, not by the vendor
    assert vendor(queue).limit == 1
    claiming.note_sent(queue, sent[2], "p2")
    assert vendor(queue).limit == 2


def test_two_workers_do_not_take_the_same_place(queue: sa.Engine) -> None:
    crowd = take(queue)
    here = accepted(queue, *crowd[:2])
    refused(queue, announced(queue, crowd[2])[0])
    claiming.note_over(queue, here[0])

    def sends(job: Claim) -> bool:
        try:
            return bool(announced(queue, job))
        except ProviderFull:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(sends, crowd[3:])) == 1


def test_jobs_that_came_too_fast_are_sent_one_after_the_other(queue: sa.Engine) -> None:
    crowd = take(queue)
    accepted(queue, *crowd[:3])
    refused(queue, announced(queue, crowd[3])[0], FAST)
    assert vendor(queue).state == VendorState.HELD
    assert vendor(queue).limit is None
    assert 10 <= vendor(queue).seconds_between < 12  # three were accepted in some seconds and 30
    end_hold(queue, "fal")
    announced(queue, crowd[4])
    with pytest.raises(ProviderFull) as later:
        announced(queue, crowd[5])
    assert 9 < later.value.seconds < 12


def test_a_job_that_no_provider_is_named_for_takes_a_place_from_its_claim_on(engine: sa.Engine) -> None:
    make_user(engine, "ann")
    put_in_force(engine, concurrency=ConcurrencyPolicy(caps=(Cap(scope="provider:http", jobs=2),)))
    enqueue(engine, *(row(f"n{number}") for number in range(5)))
    taken = [claim(engine, "w", [None] * slots, limit=99, served=only("http")) for slots in (1, 9, 9)]
    assert [len(jobs) for jobs in taken] == [1, 1, 0]


def test_a_lane_that_is_held_says_nothing_of_another_vendor(queue: sa.Engine) -> None:
    enqueue(queue, row("other", lane="ltx"))
    refused(queue, announced(queue, take(queue, 1)[0])[0])
    assert [job.id for job in take(queue)] == ["other"]


def test_all_that_limits_a_vendor_is_one_picture(queue: sa.Engine) -> None:
    price = {"unit": "second", "source": "a list", "read_on": "2026-11-28"}
    rates = {
        "fal": [{"resolution": "720p", "usd": "0.20"}, {"resolution": "1080p", "usd": "0.10"}],
        "runway": [{"usd": "0.12"}],
    }
    sold = [{"model": name, "provider": name, "price": price | {"rates": rates[name]}} for name in rates]
    put_in_force(
        queue,
        book=PriceBook.model_validate({"models": sold}),
        admission=AdmissionPolicy(
            spend_limits=tuple(
                SpendLimit(scope="provider:fal", period=p, usd=Decimal(u)) for p, u in (("day", 3), ("month", 9))
            )
        ),
        concurrency=ConcurrencyPolicy(caps=(Cap(scope="provider:*", jobs=7),)),
    )
    first, lost = take(queue, 2)
    accepted(queue, first)
    claiming.park(queue, announced(queue, lost)[0], "no answer")
    with reading(queue) as session:
        fal, runway = picture(session)
    assert (fal.provider, fal.state, fal.running, fal.parked, fal.limit) == ("fal", VendorState.OPEN, 1, 1, 7)
    assert (fal.budget_left_microusd, fal.usd_per_second) == (3_000_000, Decimal("0.20"))
    assert (runway.running, runway.budget_left_microusd, runway.usd_per_second) == (0, None, Decimal("0.12"))
    with transaction(queue, "test") as session:
        assert lanes.rooms(session, fal.held_until or first.started_at, None) == {}
