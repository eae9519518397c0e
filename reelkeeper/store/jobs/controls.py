"""The stored state of rules and control loops, by name, and how busy the slots are."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import JobState
from reelkeeper.store.core.engine import Clock, changed, insert_into
from reelkeeper.store.tables import controls, jobs

LASTS_SECONDS: Final = 45.0  # three heartbeats
_NAME: Final = "workers"


CONCURRENCY: Final = "concurrency"  # {"limit": jobs at once, "lanes": {provider: {"limit": ...}}}
ESTIMATES: Final = "estimates"  # {model: by which factors the prior was wrong, the last ones}

_REMEMBERED = sa.select(controls.c.name, controls.c.state).where(
    controls.c.name.in_(sa.bindparam("names", expanding=True))
)


def remembered(session: Session, names: Sequence[str]) -> dict[str, Any]:
    """Read the memory under each of `names` that is known."""
    return dict(session.execute(_REMEMBERED, {"names": names}).all())


def slots_of(memory: dict[str, Any], otherwise: int) -> int:
    """Read how many jobs may run at once, as last tuned, or `otherwise` where nothing was tuned yet."""
    limit = memory.get(CONCURRENCY, {}).get("limit")
    return limit if isinstance(limit, int) and limit > 0 else otherwise


def slots_now(session: Session, otherwise: int) -> int:
    """Give what `slots_of` does, from the store."""
    return slots_of(remembered(session, [CONCURRENCY]), otherwise)


def load_now(session: Session, slots: int) -> tuple[float, int]:
    """Measure the share of slots that are taken now, 0 to 1, and how many slots there are."""
    slots = slots_now(session, slots)
    running = session.execute(
        sa.select(sa.func.count()).where(jobs.c.state == JobState.RUNNING, jobs.c.leader_id.is_(None))
    ).scalar_one()
    return min(running / slots, 1.0), slots


class Kept(NamedTuple):
    """The memory as last written, and when; empty and None before the first time."""

    state: dict[str, Any]
    updated_at: datetime | None


def kept(session: Session) -> Kept:
    """Read a rule's memory."""
    row = session.execute(
        sa.select(controls.c.state, controls.c.updated_at).where(controls.c.name == CONCURRENCY)
    ).one_or_none()
    return Kept(row.state, row.updated_at) if row else Kept({}, None)


def jobs_at_once(session: Session) -> int | None:
    """Read the limit as last tuned; None before the first time."""
    limit = kept(session).state.get("limit")
    return limit if isinstance(limit, int) else None


def lane_limits(session: Session) -> dict[str, int]:
    """Read how many jobs of each provider may run at once, as last tuned; empty unless several share the limit."""
    limits = {name: lane["limit"] for name, lane in kept(session).state.get("lanes", {}).items()}
    return {name: limit for name, limit in limits.items() if name} if len(limits) > 1 else {}


def keep(session: Session, state: dict[str, Any], before: Kept) -> bool:
    """Write a rule's memory, unless it was written since `before` was read; return whether it did."""
    if before.updated_at is None:
        insert = insert_into(session, controls).values(name=CONCURRENCY, state=state, updated_at=Clock())
        return session.execute(insert.on_conflict_do_nothing().returning(controls.c.name)).scalar() is not None
    unchanged = sa.and_(controls.c.name == CONCURRENCY, controls.c.updated_at == before.updated_at)
    return changed(session, sa.update(controls).where(unchanged).values(state=state, updated_at=Clock())) == 1


def write(session: Session, name: str, state: Mapping[str, Any], seconds: float = 0) -> None:
    """Write or replace the memory under a name, dated `seconds` from now."""
    new = {"state": state, "updated_at": Clock(seconds)}
    insert = insert_into(session, controls).values(name=name, **new)
    session.execute(insert.on_conflict_do_update(index_elements=["name"], set_=new))


def give(session: Session) -> None:
    """Note that a worker is there and takes waiting jobs."""
    write(session, _NAME, {})


def end(session: Session) -> None:
    """Note that a worker has left. Another one notes itself at its next heartbeat."""
    write(session, _NAME, {}, -LASTS_SECONDS)


def is_there(session: Session) -> bool:
    """Whether a worker has noted itself lately."""
    fresh = sa.and_(controls.c.name == _NAME, controls.c.updated_at > Clock(-LASTS_SECONDS))
    return bool(session.execute(sa.select(sa.exists().where(fresh))).scalar_one())
