"""A worker with each provider: videos are stored, each job is paid once, refused ones are refunded."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import RemoteGenerator
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.jobs.run import End
from reelkeeper.operations.jobs.settle import cancel
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import blobs
from tests.adapters.providers.formats import FORMATS, Format
from tests.doubles.vendor import LOST, Vendor
from tests.faults.world import World
from tests.operations.queue import find, make_due
from tests.operations.shop import ask, budget_spent, run, spent


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


@pytest.fixture(params=["fal", "replicate", "runway", "openai", "comfyui"])
def format_(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture
def vendor(format_: Format, tiny_clip: Path) -> Iterator[Vendor]:
    with format_.double(tiny_clip.read_bytes()).serving() as serving:
        yield serving


def test_every_providers_video_is_stored_and_charged_once(
    format_: Format, vendor: Vendor, shop: World, tiny_clip: Path
) -> None:
    generator = RemoteGenerator(format_.connect(vendor), model=format_.model, poll_seconds=0.05)
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


@pytest.mark.parametrize("format_", [FORMATS["runway"], FORMATS["openai"]], ids=["runway", "openai"])
def test_a_cancelled_job_that_nobody_can_look_up_gives_its_credits_back_and_counts_as_spent(
    format_: Format, vendor: Vendor, shop: World
) -> None:
    generator = RemoteGenerator(format_.connect(vendor), model=format_.model, poll_seconds=0.05)
    vendor.queue = [LOST]
    (job_id,) = ask(shop, "a cat")
    assert run(shop, generator) == {End.PARKED: 1}
    cancel(shop.workspace.engine, job_id, run_id="ann")
    make_due(shop.workspace.engine)
    assert run(shop, generator) == {End.CANCELLED: 1}
    job = find(shop.workspace.engine, job_id)
    assert (job.state, len(vendor.submitted)) == (JobState.CANCELLED, 1)
    assert (spent(shop), budget_spent(shop)) == (0, job.quoted_cost_microusd)
