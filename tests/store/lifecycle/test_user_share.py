"""A run affects at most a share of one user's videos; the rest is left to later runs, without a refusal."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.model import Action, Verdict, Video
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.lifecycle.plan_writer import add_verdicts, begin_plan, leave_beyond_share
from reelkeeper.store.lifecycle.plans import load_summary
from reelkeeper.store.tables import blobs, plans, users, verdicts, videos

AS_OF = datetime(2026, 11, 1, tzinfo=UTC)
USERS = ("ann", "bob")


def plan_for(engine: sa.Engine, live: int, going: int) -> str:
    """Two users with `live` videos each, the `going` oldest to be retired; an older plan spares one."""
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users), [{"id": name, "tier": "free"} for name in USERS])
        for place in range(2 * live):
            row = {"generation": 1, "state": "live"}
            video = {"id": f"v{place}", "user_id": USERS[place % 2], "created_at": AS_OF - timedelta(1000 - place)}
            session.execute(sa.insert(videos).values(row | video))
            blob = {"id": place + 1, "video_id": f"v{place}", "key": str(place), "size_bytes": 10}
            session.execute(sa.insert(blobs).values(row | blob))
        gone = {"user_id": "ann", "generation": 1, "state": "retired", "created_at": AS_OF}
        session.execute(sa.insert(videos), [gone | {"id": f"gone{number}"} for number in range(5)])
    for going_places in (range(2, 2 * live), range(2 * going)):
        judged = [
            Verdict(
                Video(f"v{place}", USERS[place % 2], "free", AS_OF, 0, False, 10, None, None, place + 1, 1),
                Action.RETIRE if place in going_places else Action.KEEP,
                "past_retention" if place in going_places else "too_young",
            )
            for place in reversed(range(2 * live))
        ]
        plan_id = begin_plan(engine, "expire_videos", {}, AS_OF, "run")
        add_verdicts(engine, plan_id, judged, lambda _: "old", lambda verdict: (verdict.video.size_bytes, None))
    return plan_id


@pytest.mark.parametrize(
    ("live", "going", "percent", "always", "goes"),
    [
        (5, 5, 20, 3, 3),  # a dormant user: three tonight, the others later
        (100, 50, 20, 3, 20),
        (100, 20, 20, 3, 20),
        (2, 2, 20, 3, 2),
        (10, 10, 25, 0, 2),  # 2.5 videos are 2
        (10, 10, 100, 0, 10),
        (10, 10, 0, 3, 10),  # 0 is for the guard to refuse
    ],
)
def test_the_oldest_go_as_far_as_the_share_reaches(
    engine: sa.Engine, live: int, going: int, percent: float, always: int, goes: int
) -> None:
    plan_id = plan_for(engine, live, going)
    left = leave_beyond_share(engine, plan_id, max_percent=percent, always_allowed=always)
    with reading(engine) as session:
        summary = load_summary(session, plan_id)
        chosen = set(session.scalars(sa.select(verdicts.c.video_id).where(verdicts.c.plan_id == plan_id)))
        others = session.scalar(sa.select(sa.func.count()).where(verdicts.c.plan_id != plan_id))
        kept_by_others = session.scalar(sa.select(plans.c.kept).where(plans.c.id != plan_id))
    assert chosen == {f"v{place}" for place in range(2 * goes)}
    assert (others, kept_by_others) == (2 * live - 2, {"too_young": 2})
    assert summary.kept.get("too_young", 0) == 2 * (live - going)
    assert (left, summary.retire.objects) == (2 * (going - goes), 2 * goes)
    assert summary.kept.get("left_to_next_run", 0) == 2 * (going - goes)
    assert summary.population.objects == 2 * live
