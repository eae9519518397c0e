"""What steering rules remember, and how busy the slots are: what an estimate of a wait asks."""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import JobState
from reelkeeper.store.tables import controls, jobs

CONCURRENCY: Final = "concurrency"  # {"limit": jobs at once, ...}
ESTIMATES: Final = "estimates"  # {model: by which factors the prior was wrong, the last ones}

_REMEMBERED = sa.select(controls.c.name, controls.c.state).where(
    controls.c.name.in_(sa.bindparam("names", expanding=True))
)


def remembered(session: Session, names: Sequence[str]) -> dict[str, Any]:
    """Give what is remembered under each of `names` that is known."""
    return dict(session.execute(_REMEMBERED, {"names": names}).all())


def slots_of(memory: dict[str, Any], otherwise: int) -> int:
    """Give how many jobs run at once, as steering left it, or `otherwise` where nothing was steered yet."""
    limit = memory.get(CONCURRENCY, {}).get("limit")
    return limit if isinstance(limit, int) and limit > 0 else otherwise


def slots_now(session: Session, otherwise: int) -> int:
    """Give what `slots_of` does, from the store."""
    return slots_of(remembered(session, [CONCURRENCY]), otherwise)


def load_now(session: Session, slots: int) -> tuple[float, int]:
    """Give the share of the slots that are taken at this moment, and how many slots there are."""
    slots = slots_now(session, slots)
    running = session.execute(
        sa.select(sa.func.count()).where(jobs.c.state == JobState.RUNNING, jobs.c.leader_id.is_(None))
    ).scalar_one()
    return min(running / slots, 1.0), slots
