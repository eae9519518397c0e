"""The work that a plan has left: what its items are now counts, and not only what its run has recorded."""

from datetime import UTC, datetime

import sqlalchemy as sa

from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.lifecycle.backlog import left_of_last_plan
from reelkeeper.store.tables import blobs, plans, users, verdicts, videos

NOW = datetime.now(UTC)


def test_videos_done_or_gone_since_the_plan_are_not_left_to_do(engine: sa.Engine) -> None:
    """A run that is killed after a swap records no outcome, and the next one finds that video replaced."""
    states = {"waits": "live", "replaced": "live", "retired": "retired", "deleted": "gone", "failed": "live"}
    outcomes = {"replaced": "skipped", "failed": "failed"}
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann"))
        plan = {"flow": "tier_storage", "state": "applied", "as_of": NOW, "created_at": NOW, "run_id": "r"}
        terms = {"policy": {}, "policy_hash": "", "population": 5, "population_bytes": 5, "kept": {}}
        session.execute(sa.insert(plans).values(id="p", **plan, **terms))
        for number, (video_id, state) in enumerate(states.items()):
            session.execute(sa.insert(videos).values(id=video_id, user_id="ann", generation=1, state=state))
            for blob_id in (number, 10 + number):
                blob = {"id": blob_id, "video_id": video_id, "generation": 1, "state": "live"}
                session.execute(sa.insert(blobs).values(key=str(blob_id), size_bytes=1, **blob))
            now_at = 10 + number if video_id == "replaced" else number
            session.execute(sa.update(videos).where(videos.c.id == video_id).values(blob_id=now_at))
            verdict = {"generation": 1, "rule": "cold_compress", "reason": "cold", "size_bytes": 10**number}
            of_plan = {"plan_id": "p", "blob_id": number, "video_id": video_id, "action": "compress"}
            session.execute(sa.insert(verdicts).values(outcome=outcomes.get(video_id), **of_plan, **verdict))
    with reading(engine) as session:
        left = left_of_last_plan(session, "tier_storage", "compress", "")
    assert left is not None
    assert (left.objects, left.size_bytes) == (2, 1 + 10**4)


def test_a_dry_run_under_other_terms_leaves_nothing_to_do(engine: sa.Engine) -> None:
    """With --param, or by the policy of before, a plan only says what would be."""
    with transaction(engine, "test") as session:
        for plan_id, state, under in (("p", "ready", "in force"), ("asked", "ready", "other")):
            plan = {"flow": "tier_storage", "state": state, "as_of": NOW, "created_at": NOW, "run_id": "r"}
            terms = {"policy": {}, "policy_hash": under, "population": 5, "population_bytes": 5, "kept": {}}
            session.execute(sa.insert(plans).values(id=plan_id, **plan, **terms))
    with reading(engine) as session:
        found = [left_of_last_plan(session, "tier_storage", "compress", under) for under in ("in force", "of later")]
    assert [left and left.plan_id for left in found] == ["p", None]
