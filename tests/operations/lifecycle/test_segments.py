"""Segments of the lifecycle: every query about a video uses the segment that applies to it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.model import Grace
from reelkeeper.model.alerts import EventType
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.lifecycle import compress, notices, previews
from reelkeeper.operations.lifecycle.notices import keep
from reelkeeper.operations.lifecycle.plans import load
from reelkeeper.operations.lifecycle.policies import effect_of
from reelkeeper.operations.lifecycle.previews import Planning
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.lifecycle.why import explain, outlooks
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.lifecycle.worth import Stay
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle.plan_results import plan_items
from reelkeeper.store.lifecycle.swaps import find_source
from reelkeeper.store.tables import outbox, users, videos
from reelkeeper.store.videos.videos import list_videos, live_videos
from tests.faults.world import World
from tests.marks import marked
from tests.policies import put_in_force
from tests.tiers import FOR_EVER, tiers

AGE = timedelta(days=10)
DRAFTS = {"name": "drafts", "tags": ["draft"], "retention_days": 3}
KEPT = {"name": "kept", "models": ["sketch-1"], "retention_days": "never"}


def policy(*segments: dict[str, Any]) -> LifecyclePolicy:
    return LifecyclePolicy.model_validate({"segments": segments})


@pytest.fixture
def tagged(world: World) -> World:
    """Three videos of a free user, ten days old: a draft, one of sketch-1, and one of which nothing is known."""
    for video_id in ("draft", "made", "other"):
        world.video(video_id)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(users).values(tier="free"))
        session.execute(sa.update(videos).values(created_at=datetime.now(UTC) - AGE))
        session.execute(sa.update(videos).where(videos.c.id == "draft").values(tag="draft"))
        session.execute(sa.update(videos).where(videos.c.id == "made").values(model="sketch-1"))
    return world


def test_a_plan_names_the_segment_of_each_item_and_so_does_what_it_retires(tagged: World, lease: Lease) -> None:
    engine = tagged.workspace.engine
    put_in_force(engine, lifecycle=policy(DRAFTS, KEPT), tiers=tiers(free={"retention_days": 9}))
    report = previews.expire_videos(Planning(engine, datetime.now(UTC), "run"))
    with reading(engine) as session:
        items = {item.video_id: (item.rule, item.segment) for item in plan_items(session, report.plan.id)}
    assert items == {"draft": ("past_retention", "drafts"), "other": ("past_retention", None)}
    figures = load(engine, report.plan.id, most=10)
    assert {rule.title for rule in figures.planned} == {"segment `drafts`: past_retention", "past_retention"}
    assert {item.segment for item in figures.items} == {"drafts", None}
    retire(tagged.workspace, report.plan.id, ["draft"], lease=lease, run_id="run", grace=Grace())
    with reading(engine) as session:
        (gone,) = list_videos(session, video_id="draft")
    assert str(gone.reason) == snapshot("segment drafts: 10 days old: free users' videos are kept for 3 days")


def test_a_flow_that_only_a_segment_gives_work_plans_it(tagged: World) -> None:
    engine = tagged.workspace.engine
    put_in_force(engine, lifecycle=policy(DRAFTS), tiers=FOR_EVER)
    report = previews.expire_videos(Planning(engine, datetime.now(UTC), "run"))
    assert (report.plan.retire.objects, report.plan.population.objects) == (1, 3)


def test_why_and_when_follow_the_segment(tagged: World) -> None:
    engine = tagged.workspace.engine
    put_in_force(engine, lifecycle=policy(DRAFTS | {"retention_days": 20}, KEPT))
    told = {
        name: explain(engine, name, tagged.workspace.bucket.prefix, lambda: True) for name in ("draft", "made", "other")
    }
    assert [(told[name].next_at or datetime.now(UTC)).date() for name in ("draft", "other")] == [
        (datetime.now(UTC) - AGE + timedelta(days=days)).date() for days in (20, 30)
    ]
    assert told["made"].next_at is None
    assert any("(unknown_views): segment drafts: " in reason.said for reason in told["draft"].reasons)
    assert "segment drafts" in told["draft"].next_step
    with reading(engine) as session:
        found = {one.video.id: one.expires_at for one in outlooks(session, list_videos(session))}
    assert found == {name: told[name].next_at for name in told}


def test_a_request_to_keep_counts_from_when_the_segment_would_let_it_go(tagged: World) -> None:
    put_in_force(
        tagged.workspace.engine,
        lifecycle=policy(DRAFTS | {"retention_days": 20}),
        tiers=tiers(free={"keep_days": 5}),
    )
    until = {name: keep(tagged.workspace.engine, name, by="test", key=name).until for name in ("draft", "other")}
    made = datetime.now(UTC) - AGE
    assert [until[name].date() for name in ("draft", "other")] == [
        (made + timedelta(days=days + 5)).date() for days in (20, 30)
    ]


def test_an_encode_is_weighed_against_what_the_segment_leaves_of_a_videos_life(tagged: World) -> None:
    of_plan = policy(DRAFTS | {"retention_days": 20}, KEPT)
    job = compress.CompressionJob("plan", "run", datetime.now(UTC), of_plan, SHIPPED, Recipe(), Acceptance())
    with reading(tagged.workspace.engine) as session:
        sources = [find_source(session, name) for name in ("draft", "made", "other")]
    left = [compress.gather(tagged.workspace, job, source).stay for source in sources if source]
    assert left == [Stay(10, 7, 20), Stay(None, 7, 20), Stay(20, 7, 20)]


def test_plans_and_lists_find_the_same_segment_for_a_video(tagged: World) -> None:
    whole = policy(DRAFTS, KEPT, {"name": "keyed", "key_globs": ["*/other/*"]})
    with reading(tagged.workspace.engine) as session:
        planned = {video.id: whole.segment_of(video) for video in live_videos(session, datetime.now(UTC))}
        listed = {video.id: whole.segment_of(video) for video in list_videos(session)}
    assert planned == listed == {"draft": "drafts", "made": "kept", "other": "keyed"}


def test_the_effect_of_a_document_names_what_each_segment_retires_and_which_promise_gets_smaller(tagged: World) -> None:
    after = DEFAULTS.overridden(lifecycle=policy(DRAFTS, KEPT))
    effect = effect_of(tagged.workspace.engine, after)
    assert effect.newly_retired.objects == 1
    assert {name: counts.objects for name, counts in effect.retired_by_segment.items()} == {"drafts": 1}
    assert list(effect.broken_promises()) == [
        snapshot("by segment drafts, 1 video of free users would be kept 3 days, not 30 days")
    ]
    put_in_force(tagged.workspace.engine, lifecycle=policy(DRAFTS, KEPT))
    back = effect_of(tagged.workspace.engine, DEFAULTS)
    assert (back.newly_kept.objects, back.newly_retired.objects) == (1, 0)
    assert list(back.broken_promises()) == [
        snapshot("by the policy, 1 video of free users would be kept 30 days, not for ever")
    ]


def test_a_notice_follows_the_segment_and_says_which(tagged: World, lease: Lease) -> None:
    engine = tagged.workspace.engine
    told = DEFAULTS.overridden(
        lifecycle=policy(DRAFTS | {"retention_days": 12}, KEPT), tiers=tiers(free={"notice_days": 5})
    )
    put_in_force(engine, lifecycle=told.lifecycle, tiers=told.tiers)
    webhooks.add(engine, "http://127.0.0.1:9/x", [EventType.VIDEO_EXPIRING], allow_private=True, author="test")
    report = previews.expire_videos(Planning(engine, datetime.now(UTC), "run"))
    with reading(engine) as session:
        items = [(item.video_id, item.rule, item.segment) for item in plan_items(session, report.plan.id)]
    assert items == [("draft", "past_retention_soon", "drafts")]
    given = notices.carry_out(engine, report.plan.id, ["draft"], told, lease=lease, run_id="run")
    assert [outcome.action for outcome in given] == ["notified"]
    with reading(engine) as session:
        (told_of,) = session.scalars(sa.select(outbox.c.payload))
        assert marked(told_of["data"]["reason"]) == snapshot(
            "notice of 5 days, retired on DAY at the earliest: segment drafts: 10 days old: free users' videos are kept for 12 days"
        )
