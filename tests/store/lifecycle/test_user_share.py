"""A run affects at most a share of one user's videos; the rest is left to later runs, without a refusal."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.model import Action, Verdict, Video
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.lifecycle.plan_writer import add_verdicts, begin_plan, leave_beyond_share
from reelkeeper.store.lifecycle.plans import load_summary
from reelkeeper.store.tables import blobs, users, verdicts, videos

AS_OF = datetime(2026, 11, 1, tzinfo=UTC)


def plan_for(engine: sa.Engine, live: int, going: int) -> str:
    """A user with `live` videos, of which the `going` oldest are to be retired."""
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        for number in range(live):
            session.execute(
                sa.insert(videos).values(
                    id=f"v{number}",
                    user_id="ann",
                    generation=1,
                    state="live",
                    created_at=AS_OF - timedelta(days=100 - number),
                )
            )
            session.execute(
                sa.insert(blobs).values(
                    id=number + 1, video_id=f"v{number}", generation=1, key=str(number), state="live", size_bytes=10
                )
            )
    judged = (
        Verdict(
            Video(f"v{number}", "ann", "free", AS_OF, 0, False, 10, None, None, number + 1, 1),
            Action.RETIRE if number < going else Action.KEEP,
            "past_retention" if number < going else "too_young",
        )
        for number in reversed(range(live))
    )
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
    assert chosen == {f"v{number}" for number in range(goes)}
    assert (left, summary.retire.objects) == (going - goes, goes)
    assert summary.kept.get("left_to_next_run", 0) == going - goes
    assert summary.population.objects == live
