"""What a client's key was answered before, and a job that waits as its user is told of it."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.errors import KeyReused, NotFound
from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import Admission, Cached, GenerationRequest, Joined, Queued, Unfulfilled
from reelkeeper.operations.followers import captured
from reelkeeper.rules.admission import wait_seconds
from reelkeeper.store.steering import slots_now
from reelkeeper.store.tables import jobs, users
from reelkeeper.store.waiting import Waiting, waiting


class Asked(NamedTuple):
    """A request and who asks, under which key of theirs."""

    user_id: str
    client_key: str
    request: GenerationRequest
    sha256: str  # of the request, whoever asks
    cache_key: str


_REMEMBERED = tuple(
    jobs.c[name]
    for name in (
        *("id", "request_sha256", "created_at", "state", "video_id", "hold_id", "error"),
        *("leader_id", "price_microusd", "price_book", "estimate_seconds"),
    )
)


def before(session: Session, asked: Asked, slots: int) -> tuple[str | None, Admission | None]:
    """Give the user's tier, and what this key was answered before. Raises NotFound, KeyReused."""
    row = session.execute(
        sa.select(users.c.tier, *_REMEMBERED)
        .select_from(
            users.outerjoin(jobs, sa.and_(jobs.c.user_id == users.c.id, jobs.c.client_key == asked.client_key))
        )
        .where(users.c.id == asked.user_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"no user {asked.user_id!r} in the catalogue; nothing was admitted")
    if row.id is None:
        return row.tier, None
    if row.request_sha256 != asked.sha256:
        raise KeyReused(
            f"client key {asked.client_key!r} of user {asked.user_id!r} came with another request at "
            f"{row.created_at:%Y-%m-%d %H:%M:%S}, job {row.id}; nothing was admitted. Use a new key for a new request"
        )
    if row.state == JobState.SUCCEEDED:
        return row.tier, Cached(row.id, row.video_id, captured(session, row.hold_id))
    if row.state in (JobState.DEAD, JobState.CANCELLED):
        return row.tier, Unfulfilled(row.id, JobState(row.state), row.error or "")
    if row.leader_id is not None:
        return row.tier, Joined(row.id, row.leader_id, row.price_microusd)
    seen = waiting(session, row.estimate_seconds, apart_from=row.id)
    slots = slots_now(session, slots)
    return row.tier, queued(row.id, row.price_microusd, row.price_book, seen, row.estimate_seconds, slots)


def queued(job_id: str, price: int, book: str, seen: Waiting, estimate: float, slots: int) -> Queued:
    """Tell of a job that waits, behind what was `seen`."""
    wait = wait_seconds(seen.ahead_seconds, seen.running, seen.running_seconds, slots)
    return Queued(job_id, price, book, seen.ahead + 1, wait, round(wait + estimate, 1))
