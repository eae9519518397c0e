"""Read how many jobs may run at once and how many slots are taken; record whether workers and starters are there."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.tables import controls as table
from reelkeeper.store.tables import jobs

CONCURRENCY: Final = "concurrency"  # {"limit": jobs at once, "lanes": {provider: {"limit": ...}}}
LASTS_SECONDS: Final = 30.0  # two heartbeats
_WORKERS: Final = "workers"
_SERVES: Final = "serves/"  # and a provider
_SERVED_LASTS: Final = 7200.0  # where several workers take turns at the scheduled runs, each comes by then
_BUCKET: Final = "jobs/bucket"
_ASKED_LASTS: Final = 60.0  # four times as long as a worker waits before it asks the bucket again
_OFFER_LASTS: Final = 120.0  # four signs of a process that starts workers
_STARTERS: Final = "starters"
_RESTS: Final = "workers at rest"
_REST_LASTS: Final = 360.0  # until the next scheduled run says so again, or claims jobs


def slots_of(memory: dict[str, Any], otherwise: int) -> int:
    """Read how many jobs may run at once, as last tuned, or `otherwise` where nothing was tuned yet."""
    limit = memory.get(CONCURRENCY, {}).get("limit")
    return limit if isinstance(limit, int) and limit > 0 else otherwise


def slots_now(session: Session, otherwise: int) -> int:
    """Return `slots_of` the stored state."""
    return slots_of(controls.remembered(session, [CONCURRENCY]), otherwise)


def load_now(session: Session, slots: int) -> tuple[float, int]:
    """Measure the share of slots that are taken now, 0 to 1, and how many slots there are."""
    slots = slots_now(session, slots)
    running = session.execute(
        sa.select(sa.func.count()).where(jobs.c.state == JobState.RUNNING, jobs.c.leader_id.is_(None))
    ).scalar_one()
    return min(running / slots, 1.0), slots


def jobs_at_once(session: Session) -> int | None:
    """Read the limit as last tuned; None before the first time."""
    limit = _tuned(session).get("limit")
    return limit if isinstance(limit, int) else None


def lane_limits(session: Session) -> dict[str, int]:
    """Read how many jobs of each provider may run at once, as last tuned; empty unless several share the limit."""
    limits = {name: lane["limit"] for name, lane in _tuned(session).get("lanes", {}).items()}
    return {name: limit for name, limit in limits.items() if name} if len(limits) > 1 else {}


def _tuned(session: Session) -> dict[str, Any]:
    kept = controls.kept(session, CONCURRENCY)
    return kept.state if kept else {}


def give(session: Session, served: Collection[str] = ()) -> None:
    """Record that a worker is there and claims jobs, and the providers that are `served` by it."""
    for name in (_WORKERS, *(f"{_SERVES}{provider}" for provider in sorted(served))):  # in one order for all
        controls.write(session, name, {})


def is_served(provider: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Build the condition that a worker which serves this provider has recorded itself in the last two hours."""
    own = table.c.name == sa.literal(_SERVES, sa.String()) + provider
    return sa.exists().where(own, table.c.updated_at > Clock(-_SERVED_LASTS))


def is_claiming(session: Session) -> bool:
    """Check whether a worker has recorded itself recently."""
    return controls.fresh(session, _WORKERS, LASTS_SECONDS) is not None


def is_there(session: Session) -> bool:
    """Check whether a worker claims jobs, or rests and would be started for one."""
    return is_claiming(session) or (has_starter(session) and controls.fresh(session, _RESTS, _REST_LASTS) is not None)


def offer(session: Session) -> None:
    """Record that a process starts a worker as soon as a job waits."""
    controls.write(session, _STARTERS, {})


def has_starter(session: Session) -> bool:
    """Check whether a process has recorded recently that it starts workers."""
    return controls.fresh(session, _STARTERS, _OFFER_LASTS) is not None


def rest(session: Session) -> None:
    """Record that a worker is there and has nothing to do, until its next scheduled run."""
    controls.write(session, _RESTS, {})


def last_sign(session: Session) -> datetime | None:
    """Return when a worker recorded itself last; None: none ever did."""
    kept = controls.kept(session, _WORKERS)
    return kept.updated_at if kept else None


def note_bucket(session: Session, machine: str, *, is_away: bool) -> bool:
    """Record whether the bucket took objects of this machine as it last asked; False where it refuses another's."""
    refused = controls.fresh(session, _BUCKET, _ASKED_LASTS) or {}
    # guard claims.bucket_of_each: where it refuses one machine alone, each run of another tells that this is over
    if not is_away and refused.get("is_away") and refused.get("machine", machine) != machine:
        return False
    controls.write(session, _BUCKET, {"is_away": is_away, "machine": machine})
    return True


def is_bucket_away(session: Session) -> bool:
    """Check whether the bucket took no objects when a worker last asked it."""
    return bool(controls.remembered(session, [_BUCKET]).get(_BUCKET, {}).get("is_away"))


def is_any_lately(session: Session, seconds: float) -> bool:
    """Check whether a job waits or is begun, or has ended in the last `seconds`."""
    one = sa.select(jobs.c.id).limit(1)
    conditions = jobs.c.state.in_(IN_FLIGHT), jobs.c.finished_at > Clock(-seconds)
    return any(session.execute(one.where(each)).first() for each in conditions)
