"""Keep which of the vendors' jobs are to be deleted there, when each is asked for, and what its vendor said.

It is asked for in the transaction of the takedown or of the erasure, so none is forgotten.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import IN_FLIGHT, JobState, VendorErasure
from reelkeeper.store.core.engine import Clock, insert_into, now
from reelkeeper.store.tables import jobs, vendor_erasures, vendor_jobs
from reelkeeper.store.videos import conditions

_FIRST_PAUSE_SECONDS: Final = 60.0
_LAST_PAUSE_SECONDS: Final = 6 * 3600.0
_ALL: Final = vendor_erasures.join(vendor_jobs, vendor_jobs.c.key == vendor_erasures.c.key).join(
    jobs, jobs.c.id == vendor_jobs.c.job_id
)
_WAITS: Final = vendor_erasures.c.state == VendorErasure.WAITING


class ToErase(NamedTuple):
    """A vendor's job that it is asked to delete now. `is_delivered`: it is the one that made the video."""

    key: str
    provider: str
    vendor_id: str | None
    asked_at: datetime
    tries: int
    is_delivered: bool


class Answer(NamedTuple):
    """What became of a vendor's job; `at`: when the vendor said so, or else when it was asked for first."""

    provider: str
    vendor_id: str | None
    state: str
    at: datetime


class Late(NamedTuple):
    """Jobs that a vendor has not deleted, although it was asked for before some time; `since`: the first."""

    provider: str
    jobs: int
    since: datetime


def ask_for_videos(session: Session, video_ids: Sequence[str]) -> None:
    """Have each attempt at these videos, which are taken down, deleted at its vendor."""
    _ask(session, jobs.c.video_id.in_(video_ids), is_takedown=True)


def ask_for_user(session: Session, user_id: str) -> None:
    """Have everything that was sent for a user, who is erased, deleted at the vendors."""
    _ask(session, jobs.c.user_id == user_id, is_takedown=False)


def _ask(session: Session, of_jobs: sa.ColumnElement[bool], *, is_takedown: bool) -> None:
    """Ask once, and again for what was given up."""
    begun = {"is_takedown": sa.literal(is_takedown), "asked_at": Clock(), "due_at": Clock(), "tries": sa.literal(0)}
    begun |= {"state": sa.literal(str(VendorErasure.WAITING))}
    keys = sa.select(vendor_jobs.c.key, *begun.values()).join(jobs, jobs.c.id == vendor_jobs.c.job_id).where(of_jobs)
    insert = insert_into(session, vendor_erasures).from_select(["key", *begun], keys)
    again = vendor_erasures.c.state == VendorErasure.GIVEN_UP
    new = {name: insert.excluded[name] for name in begun} | {"answered_at": None}
    session.execute(insert.on_conflict_do_update(index_elements=["key"], set_=new, where=again))


def take_next(session: Session, providers: Collection[str], *, only_takedowns: bool) -> ToErase | None:
    """Return what is due next at one of these vendors, and put off its next try, also if we die now."""
    columns = vendor_erasures.c
    due = [
        _WAITS,
        columns.due_at <= Clock(),
        # an answer that was lost is no vendor's to give
        sa.or_(vendor_jobs.c.provider.in_(providers), vendor_jobs.c.vendor_id.is_(None)),
        # guard vendor_erase.over: a vendor deletes a video before it is fetched, or is asked about a job that goes on
        sa.and_(vendor_jobs.c.ended_at.is_not(None), jobs.c.state.not_in(IN_FLIGHT)),
        # guard vendor_erase.legal_hold: a vendor deletes evidence that a legal hold keeps
        ~conditions.held(jobs.c.video_id, jobs.c.user_id, now(session), legal=True),
    ]
    if only_takedowns:
        due.append(columns.is_takedown)
    is_delivered = sa.and_(jobs.c.state == JobState.SUCCEEDED, jobs.c.provider_key == columns.key)
    wanted = sa.select(
        columns.key,
        vendor_jobs.c.provider,
        vendor_jobs.c.vendor_id,
        columns.asked_at,
        columns.tries,
        sa.func.coalesce(is_delivered, sa.false()),
    )
    first = wanted.select_from(_ALL).where(*due).order_by(columns.due_at, columns.key).limit(1)
    row = session.execute(first.with_for_update(of=vendor_erasures, skip_locked=True)).one_or_none()
    if row is None:
        return None
    taken = ToErase(*row)
    pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(taken.tries, 20), _LAST_PAUSE_SECONDS)
    put_off = {"tries": columns.tries + 1, "due_at": Clock(pause)}
    session.execute(sa.update(vendor_erasures).where(columns.key == taken.key).values(put_off))
    return taken


def answered(session: Session, key: str, state: VendorErasure) -> tuple[str | None, str] | None:
    """Record an answer; return the video and the user as they are named now. None: it was recorded before."""
    this = sa.update(vendor_erasures).where(vendor_erasures.c.key == key, _WAITS)
    if session.execute(this.values(state=state, answered_at=Clock()).returning(vendor_erasures.c.key)).scalar() is None:
        return None
    named = sa.select(jobs.c.video_id, jobs.c.user_id).select_from(_ALL).where(vendor_erasures.c.key == key)
    video_id, user_id = session.execute(named).one()
    return video_id, user_id


def waits(session: Session) -> bool:
    """Return whether any vendor's answer is still awaited."""
    return session.execute(sa.select(vendor_erasures.c.key).where(_WAITS).limit(1)).scalar() is not None


def late(session: Session, seconds: float) -> list[Late]:
    """Count what vendors were asked for that long ago, and have not answered; a legal hold is no fault of theirs."""
    asked_at = vendor_erasures.c.asked_at
    is_held = conditions.held(jobs.c.video_id, jobs.c.user_id, now(session), legal=True)
    counted = sa.select(vendor_jobs.c.provider, sa.func.count(), sa.func.min(asked_at)).select_from(_ALL)
    chosen = counted.where(_WAITS, asked_at <= Clock(-seconds), ~is_held).group_by(vendor_jobs.c.provider)
    return [Late(*row) for row in session.execute(chosen.order_by(vendor_jobs.c.provider))]


def of_video(session: Session, video_id: str) -> list[Answer]:
    """List what became of each attempt at a video at its vendor, the first attempt first."""
    return _answers(session, jobs.c.video_id == video_id)


def of_user(session: Session, user_id: str) -> list[Answer]:
    """List the same of everything that was sent for a user, or for the pseudonym of one who is erased."""
    return _answers(session, jobs.c.user_id == user_id)


def _answers(session: Session, of_jobs: sa.ColumnElement[bool]) -> list[Answer]:
    columns = vendor_erasures.c
    at = sa.func.coalesce(columns.answered_at, columns.asked_at)
    wanted = sa.select(vendor_jobs.c.provider, vendor_jobs.c.vendor_id, columns.state, at).select_from(_ALL)
    return [Answer(*row) for row in session.execute(wanted.where(of_jobs).order_by(vendor_jobs.c.sent_at, columns.key))]
