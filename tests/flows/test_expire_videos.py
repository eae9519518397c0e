"""`expire_videos`: only videos past their retention are affected, and only retired."""

import pytest
from inline_snapshot import snapshot

from flows.expire_videos import expire_videos
from reelkeeper.errors import GuardRefused, PolicyRefused
from reelkeeper.model import Grace
from reelkeeper.model.alerts import EventType
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.removals.erase import erase
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.alerts.alerting import Trouble
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.settings import Settings
from reelkeeper.store.alerts import alerts
from reelkeeper.store.core.engine import reading
from tests.flows.scenes import Scene
from tests.policies import put_in_force
from tests.reading import DRAWN, as_read
from tests.tiers import FOR_EVER, tiers


@pytest.fixture
def old(scene: Scene) -> Scene:
    """Two videos that a pro user's retention has passed, one that it has not."""
    for number, age_days in enumerate((366, 400, 364)):
        scene.video(f"v{number}", age_days=age_days)
    return scene


def test_a_dry_run_changes_nothing_and_leaves_the_cold_ones_to_tiering(old: Scene) -> None:
    before = old.everything()
    report = expire_videos()
    assert old.everything() == before
    assert (report.plan.retire.objects, report.plan.compress.objects) == (2, 0)
    assert report.plan.kept == {"left_to_tier_storage": 1}


def test_a_run_retires_and_can_be_taken_back_whole(old: Scene) -> None:
    report = expire_videos(dry_run=False)
    assert old.states() == {"v0": "retired", "v1": "retired", "v2": "live"}
    assert [(outcome.outcome, outcome.objects) for outcome in report.done] == [("retired", 2)]
    workspace = old.world.workspace
    taken = find_restorable(workspace, run_id=report.run_id)
    restore(workspace, taken, run_id="undo", author="ops", grace=Grace(), hold_days=1)
    assert set(old.states().values()) == {"live"}
    assert old.double.deleted() == []


def test_a_plan_is_carried_out_although_a_user_of_it_was_erased_since(old: Scene) -> None:
    for number in range(3, 5):
        old.video(f"v{number}", age_days=500)
    limits = BlastRadius(max_percent=100, max_user_percent=100, max_percent_in_24h=100)
    plan_id = expire_videos(limits=limits).plan.id
    assert erase(old.world.workspace, "ann", by="front", run_id="erase", settings=Settings()).left == ()
    report = expire_videos(limits=limits, plan_id=plan_id, dry_run=False)
    assert report.plan.retire.objects == 0
    assert [(done.outcome, done.objects) for done in report.done] == [("not_done", 4)]


@pytest.mark.long
def test_users_with_promised_notice_get_it_first_and_lose_nothing_before_it_ends(old: Scene) -> None:
    put_in_force(old.engine, tiers=tiers(pro={"notice_days": 14}))
    assert expire_videos(dry_run=False).plan.kept == {"notice_no_endpoint": 2, "left_to_tier_storage": 1}
    webhooks.add(old.engine, "http://127.0.0.1:9/", [EventType.VIDEO_EXPIRING], allow_private=True, author="test")
    before = old.everything()
    assert [(rule.action, rule.rule, rule.objects) for rule in expire_videos().planned] == [
        ("notify", "past_retention_soon", 2)
    ]
    assert old.everything() == before
    report = expire_videos(dry_run=False)
    assert [(outcome.outcome, outcome.objects) for outcome in report.done] == [("notified", 2)]
    report = expire_videos(dry_run=False)
    assert report.plan.kept == {"notice_not_delivered": 2, "left_to_tier_storage": 1}
    assert set(old.states().values()) == {"live"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (BlastRadius(max_objects=0), "max_objects"),
        (BlastRadius(max_bytes=0), "max_bytes"),
        (BlastRadius(always_allowed=0, max_user_percent=100), "max_percent"),
    ],
)
def test_the_guard_refuses_and_nothing_is_changed(old: Scene, limits: BlastRadius, named: str) -> None:
    before = old.everything()
    with pytest.raises(GuardRefused, match=named):
        expire_videos(limits=limits, dry_run=False)
    assert old.everything() == before


def test_a_refused_run_has_no_alert_beside_that_of_its_plan(old: Scene) -> None:
    refused = expire_videos(limits=BlastRadius(max_objects=0), dry_run=False, return_state=True)
    assert alerting.is_no_failure(Trouble.FAILED, "expire-videos", refused.message or "")  # as Prefect words it
    with reading(old.engine) as session:
        assert [alert.rule for alert in alerts.listed(session, everything=False, limit=9)] == [alerting.PLAN_REFUSED]


@pytest.mark.long
def test_a_shrunken_catalogue_is_refused_after_a_good_run(old: Scene) -> None:
    for number in range(6):
        old.video(f"new{number}", age_days=1, stored=False)
    expire_videos(dry_run=False)
    old.lose_rows("new")
    old.video("v9", age_days=500)
    with pytest.raises(GuardRefused) as refused:
        expire_videos(dry_run=False)
    assert as_read(refused.value, **DRAWN) == snapshot("""\
refused, and nothing was changed: expire_videos selected 1 of 2 live videos, <size>
min_population_percent: 2 live videos, where the last good run left 7; at least 80 % must be
  there
for example: v9
plan: <plan>
override: reelkeeper run expire_videos --apply --plan <plan> --param
  limits.min_population_percent=28.57
or approve this plan for one run: reelkeeper approve <plan> --reason WHY\
""")
    assert old.states()["v9"] == "live"


@pytest.mark.long
def test_an_empty_policy_is_refused() -> None:
    with pytest.raises(PolicyRefused, match="retention_days of free"):
        expire_videos.fn(tiers=FOR_EVER, dry_run=False)
