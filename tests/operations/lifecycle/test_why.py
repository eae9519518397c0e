"""The explanation of a video: key, views, policy and holds, and when a run may change it next."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import NotFound
from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.lifecycle.plans import appraise
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.lifecycle.why import IF_KNOWN, IF_VIEWED, Explained, explain
from reelkeeper.operations.videos.hold import hold
from reelkeeper.rules.core.wording import UNTIL_LIVE
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import mark_of_month
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, users, videos, view_days
from reelkeeper.store.videos.holds import HoldTerms
from tests.faults.world import World
from tests.marks import marked, without_decimals
from tests.policies import put_in_force
from tests.shrinking import AT_ANY_PRICE

MADE_AT = datetime.now(UTC) - timedelta(days=10)


@pytest.fixture
def kept(world: World) -> World:
    """A free user's video of ten days, of which no day of views is known."""
    world.video("v1")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(users).values(tier="free"))
        session.execute(sa.update(videos).values(created_at=MADE_AT))
    return world


def why(world: World) -> Explained:
    return explain(world.workspace.engine, "v1", world.workspace.bucket.prefix, lambda: True)


def said(found: Explained, what: str) -> str:
    return next(reason.said for reason in found.reasons if reason.what.startswith(what))


def test_unknown_views_are_named_and_only_age_changes_the_outlook(kept: World) -> None:
    found = why(kept)
    assert marked(said(found, "key")) == snapshot("ID/videos/ann/v1/g1-ID.mp4: made by Reelkeeper, written once")
    assert said(found, "views").startswith("unknown")
    assert said(found, "policy, version 0").startswith("keep (unknown_views)")
    assert found.next_at is not None
    assert found.next_at.date() == (MADE_AT + timedelta(days=30)).date()
    assert found.next_step.startswith("expire_videos: retire")
    assert found.next_step.endswith(IF_KNOWN)


def test_in_a_trial_nothing_comes_and_what_would_is_said_as_of_going_live(kept: World) -> None:
    engine, prefix = kept.workspace.engine, kept.workspace.bucket.prefix
    live, found = why(kept), explain(engine, "v1", prefix, lambda: True).until_live()
    assert (found.next_at, found.reasons) == (None, live.reasons)
    assert live.next_at is not None
    assert found.next_step.startswith(UNTIL_LIVE)
    assert f"{live.next_at:%Y-%m-%d %H:%M}" in found.next_step


def test_the_explanation_follows_the_policy_in_force_and_the_views(kept: World) -> None:
    with transaction(kept.workspace.engine, "test") as session:
        days = [{"day": (datetime.now(UTC) - timedelta(days=n)).date()} for n in range(1, 40)]
        session.execute(sa.insert(view_days), days)
        session.execute(sa.text("UPDATE blobs SET codec = 'h264'"))
    told = said(why(kept), "policy, version 0")
    assert told.startswith("keep (does_not_pay)")
    assert without_decimals(told) == snapshot(
        "keep (does_not_pay): 0 views in 30 days, 10 days old, but an encode would cost more than it saves; nothing is saved while R2's free 10 GB cover all that is stored; beyond, it is expected to save # USD and to cost # USD: # MB less for 27 days, and the original's # MB more for 7 days at # USD a GB-month; # CPU s at # USD an hour, requests # USD"
    )  # so small, it is not worth its requests
    assert why(kept).next_step.startswith("expire_videos: retire")
    put_in_force(kept.workspace.engine, recipe=AT_ANY_PRICE)
    assert why(kept).next_step.startswith("tier_storage: compress")
    later = LifecyclePolicy(compress_below_views=None, retire_after_days=12)
    version = put_in_force(kept.workspace.engine, lifecycle=later)
    found = why(kept)
    assert said(found, f"policy, version {version}").startswith("keep (too_young)")
    assert found.next_at is not None
    assert found.next_at.date() == (MADE_AT + timedelta(days=12)).date()
    assert found.next_step.endswith(IF_VIEWED)


def test_a_hold_is_named_and_nothing_comes_next(kept: World) -> None:
    hold(kept.workspace.engine, HoldTerms("user", "ann", "a court asked", "eve"))
    found = why(kept)
    assert marked(said(found, "hold")) == snapshot("ID of the user, by eve: a court asked; until it is released")
    assert (found.next_at, found.next_step) == (None, snapshot("no run touches it while it is held"))


def test_what_this_recipe_has_refused_is_kept_as_in_plans_and_tried_again_when_they_do(kept: World) -> None:
    engine = kept.workspace.engine
    put_in_force(engine, recipe=AT_ANY_PRICE, lifecycle=LifecyclePolicy(retire_below_views=None))
    with transaction(engine, "test") as session:
        now, (mark, _) = datetime.now(UTC), appraise(session, in_force(session).policies)
        days = [{"day": (now - timedelta(days=n)).date()} for n in range(1, 40)]
        session.execute(sa.insert(view_days), days)
        session.execute(sa.update(users).values(tier="pro"))
    found = dict[str, Explained]()
    for refused in (mark, mark_of_month(mark, now), "of another recipe"):
        with transaction(engine, "test") as session:
            session.execute(sa.update(videos).values(refused_recipe=refused))
        found[refused] = why(kept)
    told = [said(one, "policy, version").split(":")[0] for one in found.values()]
    assert told == ["keep (refused_before)", "keep (refused_before)", "compress (cold_compress)"]
    for_good, for_now, _ = (one.next_at for one in found.values())
    assert for_good is not None
    assert for_good.date() == (MADE_AT + timedelta(days=365)).date()
    assert for_now == (now.replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )


def test_a_retired_video_is_explained_with_the_end_of_its_restore_period(kept: World, lease: Lease) -> None:
    plan = kept.plan("expire_videos", "retire", [1])
    assert said(why(kept), "state") == "live, generation 1"
    retire(kept.workspace, plan, ["v1"], lease=lease, run_id="night", grace=Grace())
    found = why(kept)
    assert found.state == "retired"
    assert said(found, "state").startswith("retired since 20")
    assert found.next_at is not None
    assert found.next_at - datetime.now(UTC) > timedelta(days=6)
    assert found.next_step == snapshot(
        "purge_retired, which deletes its bytes; until then: reelkeeper restore --video v1"
    )


def test_an_unknown_video_is_reported(kept: World) -> None:
    with pytest.raises(NotFound, match="'v9'"):
        explain(kept.workspace.engine, "v9", kept.workspace.bucket.prefix, lambda: True)


def test_a_retired_video_that_is_held_or_claimed_is_not_promised_to_a_purge(world: World) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    due = why(world)
    assert due.next_step.startswith("purge_retired")
    assert due.next_at is not None
    assert datetime.now(UTC) - due.next_at < timedelta(minutes=1)  # its grace is over: at the next run, not in the past
    hold(world.workspace.engine, HoldTerms("video", "v1", "a dispute", "ann"))
    assert (why(world).next_at, why(world).next_step) == (
        None,
        snapshot("no run touches it while it is held; to show it again: reelkeeper restore --video v1"),
    )
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).values(state=BlobState.DELETING))
    assert marked(why(world).next_step) == snapshot(
        "a purge has claimed its bytes; if they are still stored, they can be restored after TIME UTC"
    )


def test_where_the_contract_was_not_tried_no_purge_of_a_service_key_is_promised(world: World) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    engine, prefix = world.workspace.engine, world.workspace.bucket.prefix
    assert explain(engine, "v1", prefix, lambda: False).next_at is not None  # a key that Reelkeeper made
    with transaction(engine, "test") as session:
        session.execute(sa.update(blobs).values(key=f"{prefix}ann/v1.mp4", is_ours=False))
    assert explain(engine, "v1", prefix, lambda: True).next_at is not None
    found = explain(engine, "v1", prefix, lambda: False)
    assert (found.next_at, found.next_step) == (
        None,
        snapshot(
            "nothing is changed at the service's own keys until this bucket has passed the contract test: reelkeeper doctor --contract; to show it again: reelkeeper restore --video v1"
        ),
    )


def test_where_the_contract_failed_the_checks_are_named_and_no_further_try_is_advised(kept: World) -> None:
    engine, prefix = kept.workspace.engine, kept.workspace.bucket.prefix
    with transaction(engine, "test") as session:
        session.execute(sa.update(blobs).values(key=f"{prefix}ann/v1.mp4", is_ours=False))
        session.execute(sa.update(videos).values(created_at=MADE_AT - timedelta(days=300)))
    untried = explain(engine, "v1", prefix, lambda: False).until_live()
    found = explain(engine, "v1", prefix, lambda: False, failed={"if_match", "listing"}).until_live()
    for seen, rule, is_advised in ((untried, "contract_not_tried", True), (found, "contract_failed", False)):
        policy = said(seen, "policy, version 0")
        assert policy.startswith(f"keep ({rule})")
        assert ("--contract" in policy, "--contract" in seen.next_step) == (is_advised, is_advised)
        assert seen.next_at is None
    assert all(check in found.next_step for check in ("if_match", "listing"))
    assert found.next_step == snapshot(
        "a trial: nothing is changed until it goes live; then nothing is changed at the service's own keys, as this bucket has failed if_match, listing of the contract test: see docs/r2.md, Test the bucket"
    )
