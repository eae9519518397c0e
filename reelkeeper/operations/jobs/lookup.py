"""What is there already for a request, what its key was answered before, and a job that waits as its user is told."""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.errors import KeyReused, NotFound
from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import Admission, Cached, GenerationRequest, Joined, Queued, Unfulfilled
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs.followers import captured
from reelkeeper.rules.jobs.admission import wait_seconds
from reelkeeper.rules.policies import InForce
from reelkeeper.store.core.policies import VERSION, note
from reelkeeper.store.jobs.controls import slots_now
from reelkeeper.store.jobs.queue import Waiting, leads, waiting
from reelkeeper.store.tables import cache_entries, jobs, users
from reelkeeper.store.videos import cache


class AdmissionRequest(NamedTuple):
    """A request and who asks, under which key of theirs."""

    user_id: str
    client_key: str
    request: GenerationRequest
    sha256: str  # of the request, whoever asks
    cache_key: str


class ExistingState(NamedTuple):
    """What is there already for a request, at one moment."""

    in_force: InForce
    tier: str | None  # of the user
    known: Admission | None  # what this key was answered before
    is_cached: bool
    leader_id: str | None  # the job that is making the same


_REMEMBERED = tuple(
    jobs.c[name]
    for name in (
        *("id", "request_sha256", "created_at", "state", "video_id", "hold_id", "error"),
        *("leader_id", "price_microusd", "price_book", "estimate_seconds"),
    )
)


def _look() -> sa.Select[Any]:
    leader, wanted = jobs.alias("leader"), sa.bindparam("cache_key", type_=sa.String)
    mine = sa.and_(jobs.c.user_id == users.c.id, jobs.c.client_key == sa.bindparam("client_key"))
    return (
        sa.select(
            users.c.tier,
            *_REMEMBERED,
            *(sa.select(column).scalar_subquery().label(f"in_force_{place}") for place, column in enumerate(VERSION)),
            sa.exists().where(cache_entries.c.key == wanted, cache.GIVEN).label("is_cached"),
            sa.select(leader.c.id).where(leader.c.cache_key == wanted, leads(leader)).scalar_subquery().label("leader"),
        )
        .select_from(users.outerjoin(jobs, mine))
        .where(users.c.id == sa.bindparam("user_id"))
    )


_LOOK = _look()  # built once: to build a statement costs more than to send it


def look(session: Session, asked: AdmissionRequest) -> ExistingState:
    """See what is there already, and what this key was answered before. Raises NotFound, KeyReused, SchemaError."""
    named = {"user_id": asked.user_id, "client_key": asked.client_key, "cache_key": asked.cache_key}
    row = session.execute(_LOOK, named).one_or_none()
    if row is None:
        raise NotFound(f"no user {asked.user_id!r} in the catalogue; nothing was admitted")
    note(session, row.in_force_0, row.in_force_1)
    found = in_force(session)
    known = None if row.id is None else _before(session, asked, row, found.policies.admission.slots)
    return ExistingState(found, row.tier, known, row.is_cached, row.leader)


def _before(session: Session, asked: AdmissionRequest, row: sa.Row[Any], slots: int) -> Admission:
    if row.request_sha256 != asked.sha256:
        raise KeyReused(
            f"client key {asked.client_key!r} of user {asked.user_id!r} came with another request at "
            f"{row.created_at:%Y-%m-%d %H:%M:%S}, job {row.id}; nothing was admitted. Use a new key for a new request"
        )
    if row.state == JobState.SUCCEEDED:
        return Cached(row.id, row.video_id, captured(session, row.hold_id))
    if row.state in (JobState.DEAD, JobState.CANCELLED):
        return Unfulfilled(row.id, JobState(row.state), row.error or "")
    if row.leader_id is not None:
        return Joined(row.id, row.leader_id, row.price_microusd)
    seen = waiting(session, row.estimate_seconds, apart_from=row.id)
    slots = slots_now(session, slots)
    return queued(row.id, row.price_microusd, row.price_book, seen, row.estimate_seconds, slots)


def queued(job_id: str, price: int, book: str, seen: Waiting, estimate: float, slots: int) -> Queued:
    """Tell of a job that waits, behind what was `seen`."""
    wait = wait_seconds(seen.ahead_seconds, seen.running, seen.running_seconds, slots)
    return Queued(job_id, price, book, seen.ahead + 1, wait, round(wait + estimate, 1))
