"""Before each video of a plan, workers check whether to go on, and whether the daily budget allows it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import Frozen, LeaseLost
from reelkeeper.model import Grace
from reelkeeper.operations.billing import users
from reelkeeper.operations.billing.limits import left_for_compressing
from reelkeeper.operations.core import machine
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import status
from reelkeeper.operations.lifecycle import previews
from reelkeeper.operations.lifecycle.compress import (
    CompressionJob,
    Cost,
    claim,
    compress,
    gather,
    load_job,
    may_go_on,
)
from reelkeeper.operations.lifecycle.previews import Planning
from reelkeeper.operations.lifecycle.swap import Run, find_source
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import Recipe
from reelkeeper.rules.lifecycle.worth import Payback, pace
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store.core.engine import Clock, now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import crf_searches
from reelkeeper.store.lifecycle.plan_progress import plan_lease
from reelkeeper.store.tables import blobs, job_totals, leases, plans, videos
from reelkeeper.store.videos import imports
from tests.faults.world import World
from tests.jobs import NOON
from tests.operations.changes import change
from tests.policies import put_in_force
from tests.rules.lifecycle.test_first_crf import SEARCH


def test_helpers_stop_for_an_ended_plan_a_dead_run_or_a_freeze(world: World, lease: Lease) -> None:
    assert not may_go_on(world.workspace.engine, "over", lease)
    world.expire_leases()
    with pytest.raises(LeaseLost) as refused:
        may_go_on(world.workspace.engine, "any", lease)
    assert str(refused.value) == snapshot("lease 'test' (token 1) is no longer held: its run has ended, or is paused")
    freeze(world.workspace.engine, by="test", reason="an alarm")
    with pytest.raises(Frozen, match="an alarm"):
        may_go_on(world.workspace.engine, "any", lease)


@pytest.mark.parametrize("by", ["here", "elsewhere", None])
def test_a_search_knows_the_pace_of_this_machine_from_its_own_records(
    world: World, lease: Lease, by: str | None
) -> None:
    blob, policies = world.video("v1"), DEFAULTS
    job = CompressionJob("p", "run", NOON, policies.lifecycle, policies.tiers, policies.recipe, policies.acceptance)
    encoder = ffmpeg.tools().encoder(job.recipe.codec)
    slow, usual = (replace(SEARCH, encoder=encoder, preset=5, cpu_seconds=cpu) for cpu in (4_000.0, 400.0))
    with transaction(world.workspace.engine, "test") as session:
        for search, name in ((slow, machine.name() if by == "here" else by), (usual, "elsewhere")):
            crf_searches.add(session, search, video_id="v0", run_id="r", model=None, machine=name)
    source = find_source(world.workspace, "v1", blob, Run("run", lease, Grace(), Path(world.address.folder)))
    mine = [slow] if by == "here" else []
    assert gather(world.workspace, job, source).pace == pytest.approx(pace(job.recipe.codec, mine, [slow, usual]))


def spent(engine: sa.Engine) -> int:
    with reading(engine) as session:
        return int(session.execute(sa.select(sa.func.coalesce(sa.func.sum(job_totals.c.microusd), 0))).scalar_one())


def test_many_at_once_spend_exactly_what_a_day_may_cost(engine: sa.Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        costs = list(pool.map(lambda _: Cost.reserve(engine, 300, Decimal("0.002")), range(16)))
    assert len([cost for cost in costs if cost]) == 6
    assert spent(engine) == 1_800
    assert left_for_compressing(engine, Decimal("0.002")) == 200
    assert left_for_compressing(engine, Decimal("0.001")) == 0
    assert left_for_compressing(engine, None) is None


def test_searches_that_become_dearer_never_pass_a_day_s_dollars_together(engine: sa.Engine) -> None:
    """Sixteen that were expected to cost 100 and would cost 700 each, where the day has 2,000."""

    def search(_: int) -> int:
        cost, granted = Cost.reserve(engine, 100, Decimal("0.002")), 0
        while cost and granted < 700 and cost.affords(granted + 100):
            granted += 100
        return granted

    with ThreadPoolExecutor(8) as pool:
        granted = sum(pool.map(search, range(16)))
    assert granted <= spent(engine) <= 2_000
    assert left_for_compressing(engine, Decimal("0.002")) == 2_000 - spent(engine)


def test_a_dead_worker_s_cpu_counts_once_and_what_was_settled_is_not_counted_again(engine: sa.Engine) -> None:
    Cost.reserve(engine, 300, Decimal(5))  # killed at its encode: so much may be spent
    retried = Cost.reserve(engine, 300, Decimal(5))
    assert retried
    with transaction(engine, "test") as session:
        retried.settle(session, 250)  # with its search, in one transaction; killed before the swap
    third = Cost.reserve(engine, 300, Decimal(5))  # finds the result published
    assert third
    third.give_back()
    third.give_back()
    assert spent(engine) == 550
    (use,) = status.gather(engine).money.limits
    assert (use.scope, use.period, use.used_microusd, use.limit_microusd) == ("compressing", "day", 550, 5_000_000)


def test_the_expected_cost_of_an_encode_is_replaced_by_the_actual_cost(engine: sa.Engine) -> None:
    begun, never_begun = (Cost.reserve(engine, 300, Decimal(1)) for _ in range(2))
    assert begun
    assert never_begun
    with transaction(engine, "test") as session:
        begun.settle(session, 450)
    begun.give_back()
    never_begun.give_back()
    assert spent(engine) == 450
    failed = Cost.reserve(engine, 200, Decimal(1))
    assert failed
    assert failed.affords(220)
    failed.give_back()  # its CPU is gone
    assert spent(engine) == 670
    refused = Cost.reserve(engine, 20, Decimal("0.0007"))
    assert refused
    assert not refused.affords(40)
    refused.give_back()
    assert spent(engine) == 670
    assert Cost.reserve(engine, 300, Decimal("0.0007")) is None
    assert Cost.reserve(engine, 10**9, Decimal("0.0007")) is None
    assert Cost.reserve(engine, 10**9, None)


def upgrade(world: World) -> None:
    users.put(world.workspace.engine, "ann", "pro", by="shop")


def import_views(world: World) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    imports.import_views(world.workspace.engine, ["video_id,day,views", f"v1,{yesterday},50"], complete=True)


@pytest.mark.parametrize("meanwhile", [None, upgrade, import_views])
def test_a_video_that_its_plan_would_keep_by_now_is_not_compressed(
    world: World, meanwhile: Callable[[World], None] | None
) -> None:
    engine = world.workspace.engine
    world.video("v1")
    with reading(engine) as session:
        as_of = now(session)
    change(world, videos, created_at=as_of - timedelta(days=10))
    imports.mark_complete(engine, [as_of.date() - timedelta(days=days) for days in range(1, 40)])
    paid = {"name": "paid", "tiers": ["pro"], "compress_below_views": "never"}
    policy = LifecyclePolicy.model_validate({"segments": [paid]})
    free = Recipe(payback=Payback(cpu_usd_per_hour=None))
    report = previews.tier_storage(Planning(engine, as_of, "night"), policy=policy, recipe=free)
    assert report.plan.compress.objects == 1
    if meanwhile:
        meanwhile(world)
    with LeaseManager(engine) as manager:
        batch = claim(engine, manager, report.plan.id)
        assert batch
        (item, lease), scratch = batch.items[0], Path(world.address.folder) / "scratch"
        outcome = compress(world.workspace, manager, load_job(engine, report.plan.id), item, lease, scratch=scratch)
    assert (outcome.action == "skipped") == bool(meanwhile)


def test_a_file_too_large_to_be_opened_is_refused_for_good_and_not_downloaded(world: World) -> None:
    engine = world.workspace.engine
    world.video("v1")
    change(world, blobs, size_bytes=10**12)
    with reading(engine) as session:
        as_of = now(session)
    change(world, videos, created_at=as_of - timedelta(days=10))
    imports.mark_complete(engine, [as_of.date() - timedelta(days=days) for days in range(1, 40)])
    at_any_price = Recipe(payback=Payback(cpu_usd_per_hour=None))
    report = previews.tier_storage(Planning(engine, as_of, "night"), recipe=at_any_price)
    assert report.plan.compress.objects == 1
    with LeaseManager(engine) as manager:
        batch = claim(engine, manager, report.plan.id)
        assert batch
        (item, lease), scratch = batch.items[0], Path(world.address.folder) / "scratch"
        job = load_job(engine, report.plan.id)
        outcome = compress(world.workspace, manager, job, item, lease, scratch=scratch)
    assert outcome.action == "refused"
    assert not [sent for sent in world.double.sent("GetObject") if sent.key.endswith(".mp4")]
    assert not previews.tier_storage(Planning(engine, as_of, "next"), recipe=at_any_price).plan.compress.objects


@pytest.mark.parametrize("switched_off", [True, False])
def test_workers_stop_once_other_terms_of_their_plan_are_applied(
    world: World, lease: Lease, *, switched_off: bool
) -> None:
    engine, plan_id = world.workspace.engine, world.plan("tier_storage", "compress", [world.video("v1")])
    put_in_force(engine)
    under, recipe = LifecyclePolicy(), Recipe(payback=Payback(cpu_usd_per_hour=None))  # an exception of the run
    with transaction(engine, "test") as session:
        terms = {"policy": under.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json")}
        session.execute(sa.update(plans).values(state="applied", applied_at=Clock(), policy=terms))
        session.execute(sa.update(leases).where(leases.c.name == lease.name).values(name=plan_lease(plan_id)))
    held = lease._replace(name=plan_lease(plan_id))
    assert may_go_on(engine, plan_id, held)
    kept = LifecyclePolicy.model_validate({"compress_below_views": None} if switched_off else {})
    put_in_force(engine, lifecycle=kept, admission=AdmissionPolicy(slots=3))
    assert may_go_on(engine, plan_id, held) != switched_off
