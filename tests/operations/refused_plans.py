"""Create plans that the blast radius refuses, for one user with twenty live videos."""

from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import uuid4

import pytest
import sqlalchemy as sa

from reelkeeper.errors import GuardRefused
from reelkeeper.model import Action, Verdict, Video
from reelkeeper.operations.lifecycle import plans
from reelkeeper.rules.lifecycle import guard
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.store import Engine
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.lifecycle.plan_writer import add_verdicts, begin_plan
from reelkeeper.store.tables import users, videos
from tests.policies import put_in_force

AS_OF: Final = datetime(2026, 11, 24, 2, tzinfo=UTC)
UNDER: Final[dict[str, Any]] = {"policy": {}}
TIGHT: Final = BlastRadius(max_objects=5, max_percent=100, max_user_percent=100, max_percent_in_24h=100)


def stock(engine: Engine) -> None:
    """Put the user, the videos and the limits into the store."""
    put_in_force(engine, limits=TIGHT)
    with transaction(engine, "test.put") as session:
        session.execute(sa.insert(users), [{"id": "bob"}])
        live = [{"id": f"v{n}", "user_id": "bob", "state": "live", "generation": 1} for n in range(20)]
        session.execute(sa.insert(videos), live)


def planned(engine: Engine, count: int = 8, *, kept: int = 0) -> str:
    """Save a plan to retire the first of them, and to keep the next ones."""

    def judged(n: int) -> Verdict:
        video = Video(f"v{n}", "bob", "free", AS_OF, 0, False, 1_000, "h264", None, n + 1, 1)
        return Verdict(video, Action.RETIRE, "old") if n < count else Verdict(video, Action.KEEP, "too_young")

    plan_id = begin_plan(engine, "expire_videos", UNDER, AS_OF, "run")
    add_verdicts(engine, plan_id, map(judged, range(count + kept)), lambda _: "old", lambda _: (0, 0))
    return plan_id


def carry_out(engine: Engine, plan_id: str, limits: BlastRadius = TIGHT) -> None:
    """Claim the plan as a run of its flow does."""
    plan = plans.load(engine, plan_id, most=1).plan
    plans.claim(engine, plan, UNDER, partial(guard.within, limits, plan), uuid4().hex)


def refuse(engine: Engine, plan_id: str) -> str:
    """Let the guard refuse it; return its message."""
    with pytest.raises(GuardRefused) as refused:
        carry_out(engine, plan_id)
    return str(refused.value)
