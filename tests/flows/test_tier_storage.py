"""`tier_storage`: plans first, refuses before the first change, carries the plan out, and reports it."""

import socket
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from flows.tier_storage import tier_storage
from reelkeeper.errors import Frozen, GuardRefused, LeaseLost, PartialFailure, PlanRefused, PolicyRefused
from reelkeeper.model import Done
from reelkeeper.model.alerts import EventType
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.core import freeze
from reelkeeper.operations.core.lease import alone
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.selection import MOST_TRIED
from reelkeeper.rules.lifecycle.transcode import Recipe
from reelkeeper.rules.lifecycle.worth import Payback
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import blobs, crf_searches, job_totals, notice_deliveries, notices, users, videos
from tasks import runs
from tests.clips import MakeClip
from tests.flows.scenes import Scene
from tests.marks import marked
from tests.policies import put_in_force
from tests.reading import DRAWN, as_read
from tests.shrinking import AT_ANY_PRICE
from tests.tiers import tiers

WIDE = BlastRadius(max_percent=100, max_user_percent=100, max_percent_in_24h=100)


@pytest.fixture
def cold(scene: Scene) -> Scene:
    """Four new videos, two cold ones to compress, and one that nobody has watched for a month."""
    for number in range(4):
        scene.video(f"new{number}", age_days=1)
    for number in range(2):
        scene.video(f"cold{number}", age_days=10)
    scene.video("forgotten", age_days=40)
    return scene


@pytest.mark.long
def test_a_dry_run_saves_its_plan_and_changes_nothing(cold: Scene) -> None:
    before = cold.everything()
    report = tier_storage()
    assert cold.everything() == before
    assert (report.dry_run, report.done, report.refusal) == (True, (), None)
    assert {(rule.action, rule.rule, rule.objects) for rule in report.planned} == {
        ("compress", "cold_compress", 2),
        ("retire", "cold_retire", 1),
    }
    assert report.plan.kept == {"too_young": 4}
    assert cold.last_plan().state == "ready"


def test_a_run_compresses_and_retires_what_the_plan_says(cold: Scene) -> None:
    report = tier_storage(dry_run=False)
    assert {outcome.outcome: outcome.objects for outcome in report.done} == {"compressed": 2, "retired": 1}
    assert cold.states() == dict.fromkeys([f"new{n}" for n in range(4)] + ["cold0", "cold1"], "live") | {
        "forgotten": "retired"
    }
    with reading(cold.engine) as session:
        codecs = session.execute(
            sa.select(blobs.c.codec).join(videos, videos.c.blob_id == blobs.c.id).where(videos.c.id.startswith("cold"))
        ).scalars()
        assert list(codecs) == ["h264", "h264"]
        assert set(session.scalars(sa.select(crf_searches.c.machine))) == {socket.gethostname()}
    assert report.saved_bytes > 0
    searches = report.searches
    assert (searches.searches, searches.accepted) == (2, 2)
    assert searches.source_bytes - searches.kept_bytes == sum(
        done.before_bytes - done.after_bytes for done in report.done if done.outcome == "compressed"
    )
    assert searches.cpu_seconds > 0
    assert cold.double.deleted() == []
    cold.world.check()


def test_with_a_cpu_price_videos_that_do_not_pay_are_kept(cold: Scene) -> None:
    """As shipped: the two clips are far too small to pay for their requests."""
    put_in_force(cold.engine, recipe=Recipe(payback=Payback(cpu_usd_per_hour=Decimal("0.04"))))
    report = tier_storage()
    assert [(rule.action, rule.rule) for rule in report.planned] == [("retire", "cold_retire")]
    assert all(rule.net_microusd is not None for rule in report.planned)
    assert report.plan.kept == {"too_young": 4, "does_not_pay": 2}


def test_a_cold_store_tries_a_few_dense_clips_and_then_compresses_the_rest(scene: Scene, make_clip: MakeClip) -> None:
    dense = make_clip(
        "-vf", "noise=alls=8:allf=t", size="320x240", seconds=3, codec="libx264 -preset ultrafast -qp 0"
    )  # of 5 MB, for which an encode is not expected to pay before it is tried
    for number in range(MOST_TRIED + 2):
        scene.video(f"cold{number:02}", age_days=8, clip=dense)
    scene.video("large", age_days=1)
    with transaction(scene.engine, "test") as session:
        session.execute(sa.update(users).values(tier="premium"))
        large = sa.select(videos.c.blob_id).where(videos.c.id == "large").scalar_subquery()
        session.execute(sa.update(blobs).where(blobs.c.id == large).values(size_bytes=2 * 10**10))  # so R2 bills
    put_in_force(scene.engine, recipe=Recipe())
    first = tier_storage(dry_run=False)
    assert [(rule.rule, rule.objects) for rule in first.planned] == [("tried_to_learn", MOST_TRIED)]
    assert first.plan.kept == {"too_young": 1, "does_not_pay": 2}
    assert {done.outcome: done.objects for done in first.done} == {"compressed": MOST_TRIED}
    second = tier_storage(dry_run=False)
    assert [(rule.rule, rule.objects) for rule in second.planned] == [("cold_compress", 2)]
    assert second.plan.kept == {"too_young": 1, "compressed_before": MOST_TRIED}
    assert {done.outcome: done.objects for done in second.done} == {"compressed": 2}
    assert second.searches.net_microusd > 0


@pytest.mark.long
def test_videos_beyond_the_days_dollars_are_left_to_a_later_plan(cold: Scene) -> None:
    """Without a price for CPU, compressing a clip costs its four requests: 6 micro-dollars."""
    put_in_force(cold.engine, recipe=AT_ANY_PRICE, lifecycle=LifecyclePolicy(compress_usd_per_day=Decimal("0.000011")))
    report = tier_storage(dry_run=False)
    assert report.plan.kept["left_to_another_day"] == 1
    assert {done.outcome: done.objects for done in report.done} == {"compressed": 1, "retired": 1}
    assert tier_storage().plan.kept["left_to_another_day"] == 1  # nothing is left of the day
    with transaction(cold.engine, "test") as session:
        session.execute(sa.delete(job_totals))  # another day
    again = tier_storage(dry_run=False)
    assert {done.outcome: done.objects for done in again.done} == {"compressed": 1}
    cold.world.check()


@pytest.mark.long
def test_a_run_of_an_approved_plan_that_was_handed_over_does_the_rest(
    cold: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_id = tier_storage().plan.id
    monkeypatch.setattr(runs, "run_id", lambda: "the run")  # as Prefect keeps it when the next worker starts it again
    cold.when_a_video_is_fetched(lambda: freeze.freeze(cold.engine, by="test", reason="its worker is replaced"))
    with pytest.raises(Frozen):
        tier_storage(dry_run=False, plan_id=plan_id)
    freeze.thaw(cold.engine, by="test")
    report = tier_storage(dry_run=False, plan_id=plan_id)
    assert {done.outcome: done.objects for done in report.done} == {"compressed": 2, "retired": 1}
    cold.world.check()


@pytest.mark.long
def test_a_saved_plan_is_applied_as_it_stands_and_only_once(cold: Scene) -> None:
    plan_id = tier_storage().plan.id
    cold.video("later", age_days=50)
    report = tier_storage(dry_run=False, plan_id=plan_id)
    assert report.plan.id == plan_id
    assert cold.states()["later"] == "live"
    before = cold.everything()
    with pytest.raises(PlanRefused) as refused:
        tier_storage(dry_run=False, plan_id=plan_id)
    assert marked(refused.value) == snapshot(
        "plan ID was already applied on DAY TIME UTC. Nothing was changed. Make a new plan"
    )
    with pytest.raises(PlanRefused) as refused:
        tier_storage(LifecyclePolicy(retire_after_days=90), dry_run=False, plan_id=tier_storage().plan.id)
    assert marked(refused.value) == snapshot(
        """\
plan ID was made under another policy: policy.retire_after_days=30 then, 90 now. Nothing was changed. As it was made: reelkeeper run tier_storage --apply --plan ID --param policy.retire_after_days=30
  or make a new plan\
"""
    )
    assert cold.everything() == before


@pytest.mark.long
def test_the_guard_refuses_before_the_first_change_and_its_override_applies_the_same_plan(cold: Scene) -> None:
    for number in range(4):
        cold.video(f"more{number}", age_days=40)
    before = cold.everything()
    all_at_once = BlastRadius(max_user_percent=100)  # else the five are spread over two nights, for they are one user's
    assert "max_percent" in (tier_storage(limits=all_at_once).refusal or "")
    with pytest.raises(GuardRefused) as told:
        tier_storage(limits=all_at_once, dry_run=False)
    assert as_read(told.value, **DRAWN) == snapshot("""\
refused, and nothing was changed: tier_storage selected 5 of 11 live videos, <size>
max_percent: 5 of 11 live videos (45.45 %), limit 5 %
max_percent_in_24h: 5 of 11 videos in 24 hours (45.45 %), limit 10 %
for example: forgotten, more0, more1, more2, more3
plan: <plan>
override: reelkeeper run tier_storage --apply --plan <plan> --param
  limits.max_user_percent=100.0 --param limits.max_percent=45.46 --param
  limits.max_percent_in_24h=45.46
or approve this plan for one run: reelkeeper approve <plan> --reason WHY\
""")
    assert cold.everything() == before
    refused = cold.last_plan()
    assert refused.state == "refused"
    assert "max_percent" in refused.refusal
    report = tier_storage(limits=WIDE, dry_run=False, plan_id=refused.id)
    assert Done("retired", 5, 5 * cold.world.clip.stat().st_size, 0) in report.done


def test_a_policy_without_a_rule_is_refused(cold: Scene) -> None:
    with pytest.raises(PolicyRefused) as refused:
        tier_storage(LifecyclePolicy(compress_below_views=None, retire_below_views=None), dry_run=False)
    assert marked(refused.value) == snapshot(
        "empty policy: compress_below_views and retire_below_views are all never, so tier_storage could do nothing. Switch one on, or pause the schedule of tier_storage"
    )
    assert set(cold.states().values()) == {"live"}


@pytest.mark.long
def test_a_second_run_finds_the_lease_taken(cold: Scene) -> None:
    before = cold.everything()
    with alone(cold.engine, "flow/tier_storage") as other, pytest.raises(LeaseLost, match=other.lease.holder):
        tier_storage(dry_run=False)
    assert cold.everything() == before


@pytest.mark.long
def test_a_frozen_deployment_is_left_alone(cold: Scene) -> None:
    freeze.freeze(cold.engine, by="ops", reason="an audit")
    before = cold.everything()
    with pytest.raises(Frozen, match="an audit"):
        tier_storage(dry_run=False)
    assert cold.everything() == before


@pytest.mark.long
def test_a_freeze_during_a_run_stops_it_before_the_next_video(cold: Scene) -> None:
    cold.when_a_video_is_fetched(lambda: freeze.freeze(cold.engine, by="ops", reason="stop"))
    with pytest.raises(Frozen, match="stop"):
        tier_storage(LifecyclePolicy(retire_below_views=None), dry_run=False)
    assert set(cold.outcomes(cold.last_plan().id).values()) == {None}
    assert set(cold.states().values()) == {"live"}


@pytest.mark.long
def test_one_video_that_fails_ends_the_run_failed_with_the_rest_done(cold: Scene) -> None:
    cold.video("missing", age_days=20, stored=False)
    with pytest.raises(PartialFailure) as refused:
        tier_storage(dry_run=False)
    assert as_read(refused.value, **DRAWN) == snapshot("""\
tier_storage, run <run>: 2 compressed, 1 failed, 1 retired. Failed, for example: missing:
  ObjectMissing: GET <key>: no such object\
""")
    assert cold.outcomes(cold.last_plan().id) == {
        "cold0": "compressed",
        "cold1": "compressed",
        "missing": "failed",
        "forgotten": "retired",
    }


@pytest.mark.long
def test_a_storage_that_hiccups_is_asked_again_at_the_end(cold: Scene) -> None:
    cold.when_its_identity_was_read(lambda: cold.double.faults.fail("GetObject", 403))
    report = tier_storage(dry_run=False)
    assert {outcome.outcome: outcome.objects for outcome in report.done} == {"compressed": 2, "retired": 1}


@pytest.mark.long
def test_a_cold_video_goes_once_its_notice_was_delivered_and_is_over(scene: Scene) -> None:
    scene.video("v0", age_days=40)
    for number in range(1, 4):
        scene.video(f"v{number}", age_days=1, stored=False)
    put_in_force(scene.engine, tiers=tiers(pro={"notice_days": 14}))
    webhooks.add(scene.engine, "http://127.0.0.1:9/", [EventType.VIDEO_EXPIRING], allow_private=True, author="test")
    report = tier_storage(dry_run=False)
    assert [(outcome.outcome, outcome.objects) for outcome in report.done] == [("notified", 1)]
    assert tier_storage().plan.kept["notice_not_delivered"] == 1
    long_ago = datetime.now(UTC) - timedelta(days=15)
    with transaction(scene.engine, "test") as session:
        session.execute(sa.update(notices).values(expires_at=long_ago))
        session.execute(sa.update(notice_deliveries).values(delivered_at=long_ago))
    report = tier_storage(dry_run=False)
    assert [(outcome.outcome, outcome.objects) for outcome in report.done] == [("retired", 1)]
    assert scene.states()["v0"] == "retired"
