"""A worker with each provider: videos are stored, each job is paid once, refused ones are refunded."""

import hashlib
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import RemoteGenerator
from reelkeeper.model.jobs import End, JobState
from reelkeeper.operations.jobs.settle import cancel
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import blobs, jobs, vendor_jobs
from tests.adapters.providers.formats import Format
from tests.doubles.vendor import LOST, Vendor
from tests.faults.world import World
from tests.operations.queue import find, make_due
from tests.operations.shop import ask, budget_spent, run, spent


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


def test_every_providers_video_is_stored_and_charged_once(
    format_: Format, vendor: Vendor, generator: RemoteGenerator, shop: World, tiny_clip: Path
) -> None:
    (made,) = ask(shop, "a cat")
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    with reading(shop.workspace.engine) as session:
        stored = session.execute(sa.select(blobs.c.sha256)).scalar_one()
    assert stored == hashlib.sha256(tiny_clip.read_bytes()).hexdigest()
    price = find(shop.workspace.engine, made).price_microusd
    assert spent(shop) == price > 0

    vendor.end_as("moderated")
    (refused,) = ask(shop, "a face")
    assert run(shop, generator) == {End.REFUSED: 1}
    job = find(shop.workspace.engine, refused)
    assert job.state == JobState.DEAD
    assert "moderat" in job.error or "flagged" in job.error
    assert spent(shop) == price

    vendor.end_as("succeeded")
    vendor.queue, before = [LOST], len(vendor.submitted)
    ask(shop, "a dog")
    ends = run(shop, generator)
    make_due(shop.workspace.engine)
    ends += run(shop, generator)
    assert len(vendor.submitted) - before == 1
    assert ends == ({End.SUCCEEDED: 1} if format_.finds_lost else {End.PARKED: 2})


@pytest.mark.parametrize("format_", ["runway", "openrouter", "openai"], indirect=True)
def test_a_cancelled_job_that_nobody_can_look_up_gives_its_credits_back_and_counts_as_spent(
    vendor: Vendor, generator: RemoteGenerator, shop: World
) -> None:
    vendor.queue = [LOST]
    (job_id,) = ask(shop, "a cat")
    assert run(shop, generator) == {End.PARKED: 1}
    cancel(shop.workspace.engine, job_id, run_id="ann")
    make_due(shop.workspace.engine)
    assert run(shop, generator) == {End.CANCELLED: 1}
    job = find(shop.workspace.engine, job_id)
    assert (job.state, len(vendor.submitted)) == (JobState.CANCELLED, 1)
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd)


@pytest.mark.parametrize("hours_since_sent", [25, 1])
@pytest.mark.parametrize("format_", ["fal", "replicate", "runway"], indirect=True)
def test_a_job_that_its_vendor_never_had_counts_as_spent_only_where_nobody_can_know(
    format_: Format, vendor: Vendor, generator: RemoteGenerator, shop: World, hours_since_sent: int
) -> None:
    """One that was sent lately may yet be listed."""
    vendor.is_dead = True
    (job_id,) = ask(shop, "a cat")
    assert run(shop, generator) == {End.PARKED: 1}
    vendor.is_dead = False
    with transaction(shop.workspace.engine, "test") as session:
        session.execute(sa.update(jobs).values(started_at=Clock(-25 * 3600), due_at=Clock(-1)))
        session.execute(sa.update(vendor_jobs).values(sent_at=Clock(-hours_since_sent * 3600)))
    assert run(shop, generator) == {End.DEAD: 1}
    job, is_known = find(shop.workspace.engine, job_id), format_.finds_lost and hours_since_sent == 25
    assert (job.state, vendor.jobs) == (JobState.DEAD, {})
    assert (spent(shop), budget_spent(shop)) == (0, 0 if is_known else job.quoted_cost_microusd)
