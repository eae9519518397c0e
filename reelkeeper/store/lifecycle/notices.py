"""Store notices that videos will be retired, in force until they end, and requests to keep a video, counted once.

A notice counts as given once every endpoint that it was sent to has accepted it, or an operator has released the
others. Times are the database's.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import Notice, VideoState
from reelkeeper.model.alerts import MessageState
from reelkeeper.store.core.engine import Clock, changed, insert_into, now
from reelkeeper.store.tables import keeps, notices, outbox, users, videos
from reelkeeper.store.tables import notice_deliveries as deliveries

_AT_ONCE = 500  # ids in one statement


class NewNotice(NamedTuple):
    """A notice to give."""

    video_id: str
    tier: str
    days: int
    rule: str
    expires_at: datetime


class Undelivered(NamedTuple):
    """Notices in force that an endpoint has not accepted, and that were not released for it."""

    endpoint_id: str
    notices: int
    since: datetime


def standing(session: Session, video_ids: Sequence[str] | None = None) -> dict[str, Notice]:
    """Read the notices in force of live videos, or of those among `video_ids`."""
    waits = sa.and_(deliveries.c.delivered_at.is_(None), deliveries.c.released_at.is_(None))
    last = sa.func.max(sa.func.coalesce(deliveries.c.delivered_at, deliveries.c.released_at))
    will_not_arrive = sa.or_(outbox.c.id.is_(None), outbox.c.state == MessageState.WITHDRAWN)
    rows = session.execute(
        sa.select(
            notices.c.video_id,
            notices.c.tier,
            notices.c.expires_at,
            # guard notices.all_endpoints: a video is retired when only one of two endpoints has the notice
            sa.case((sa.func.sum(sa.case((waits, 1), else_=0)) == 0, last)),
            sa.func.coalesce(sa.func.sum(sa.case((sa.and_(waits, will_not_arrive), 1), else_=0)), 1) > 0,
        )
        .join(videos, videos.c.id == notices.c.video_id)
        .outerjoin(deliveries, deliveries.c.notice_id == notices.c.id)
        .outerjoin(outbox, outbox.c.id == deliveries.c.message_id)
        .where(
            notices.c.ended_at.is_(None),
            videos.c.state == VideoState.LIVE,
            sa.true() if video_ids is None else notices.c.video_id.in_(video_ids),
        )
        .group_by(notices.c.id, notices.c.video_id, notices.c.tier, notices.c.expires_at)
    )
    return {row[0]: Notice(*row) for row in rows}


def give(session: Session, wanted: Sequence[NewNotice], run_id: str) -> dict[str, int]:
    """Insert notices, except for videos with one in force; return the ids of the new ones, by video."""
    at = now(session)
    rows = [{**notice._asdict(), "given_at": at, "run_id": run_id} for notice in wanted]
    if not rows:
        return {}
    new = insert_into(session, notices).on_conflict_do_nothing().returning(notices.c.video_id, notices.c.id)
    return {row.video_id: row.id for row in session.execute(new, rows)}


def sent(session: Session, messages: Iterable[tuple[int, str, int]]) -> None:
    """Record the message that carries each notice to each endpoint: (notice, endpoint, message)."""
    rows = [dict(zip(("notice_id", "endpoint_id", "message_id"), row, strict=True)) for row in messages]
    if rows:
        session.execute(sa.insert(deliveries), rows)


def delivered(session: Session, message_ids: Collection[int]) -> None:
    """Record that an endpoint has accepted messages, as far as they were notices; a repetition changes nothing."""
    are_these = deliveries.c.message_id.in_(message_ids), deliveries.c.delivered_at.is_(None)
    session.execute(sa.update(deliveries).where(*are_these).values(delivered_at=Clock()))


def release(session: Session, endpoint_id: str | None) -> int:
    """Count the notices in force that an endpoint, or any, has not accepted as given now; return how many."""
    waits = deliveries.c.delivered_at.is_(None), deliveries.c.released_at.is_(None)
    chosen = sa.true() if endpoint_id is None else deliveries.c.endpoint_id == endpoint_id
    stands = deliveries.c.notice_id.in_(sa.select(notices.c.id).where(notices.c.ended_at.is_(None)))
    return changed(session, sa.update(deliveries).where(*waits, chosen, stands).values(released_at=Clock()))


def forget_endpoint(session: Session, endpoint_id: str) -> None:
    """Stop waiting for a removed endpoint. A notice that no other endpoint has is ended."""
    waits = deliveries.c.delivered_at.is_(None), deliveries.c.released_at.is_(None)
    session.execute(sa.delete(deliveries).where(deliveries.c.endpoint_id == endpoint_id, *waits))
    has_none = ~sa.exists().where(deliveries.c.notice_id == notices.c.id)
    values = {"ended_at": Clock(), "end": "its endpoint was removed before it accepted the notice"}
    session.execute(sa.update(notices).where(notices.c.ended_at.is_(None), has_none).values(values))


def end(session: Session, video_ids: Sequence[str], why: str) -> None:
    """End the notices of these videos, and withdraw their unsent messages."""
    for first in range(0, len(video_ids), _AT_ONCE):
        _end(session, notices.c.video_id.in_(video_ids[first : first + _AT_ONCE]), why)


def end_all(session: Session, why: str) -> None:
    """End all notices, and withdraw their unsent messages."""
    _end(session, sa.true(), why)


def _end(session: Session, wanted: sa.ColumnElement[bool], why: str) -> None:
    stand = sa.and_(wanted, notices.c.ended_at.is_(None))
    messages = (
        sa.select(deliveries.c.message_id)
        .join(notices, notices.c.id == deliveries.c.notice_id)
        .where(stand, deliveries.c.delivered_at.is_(None))
    )
    unsent = outbox.c.id.in_(messages), outbox.c.state.in_([MessageState.WAITING, MessageState.GIVEN_UP])
    # guard notices.withdrawn: a service gets notice for a video that stays
    session.execute(sa.update(outbox).where(*unsent).values(state=MessageState.WITHDRAWN))
    session.execute(sa.update(notices).where(stand).values(ended_at=Clock(), end=why))


def undelivered(session: Session) -> list[Undelivered]:
    """Count the notices in force that each endpoint has not accepted, the oldest first."""
    since = sa.func.min(notices.c.given_at)
    rows = session.execute(
        sa.select(deliveries.c.endpoint_id, sa.func.count(), since)
        .join(notices, notices.c.id == deliveries.c.notice_id)
        .join(videos, videos.c.id == notices.c.video_id)
        .where(
            notices.c.ended_at.is_(None),
            videos.c.state == VideoState.LIVE,
            deliveries.c.delivered_at.is_(None),
            deliveries.c.released_at.is_(None),
        )
        .group_by(deliveries.c.endpoint_id)
        .order_by(since, deliveries.c.endpoint_id)
    )
    return [Undelivered._make(row) for row in rows]


def given(promised: Mapping[str, int], at: datetime) -> sa.ColumnElement[bool]:
    """Build the condition that a video may be retired: no notice was promised, or it was given those days before `at`.

    `promised` is days by tier. A notice that was given while the user had another tier does not count.
    """
    return sa.and_(sa.true(), *(_given_to(tier, days, at) for tier, days in promised.items() if days))


def _given_to(tier: str, days: int, at: datetime) -> sa.ColumnElement[bool]:
    is_of_tier = sa.exists().where(users.c.id == videos.c.user_id, users.c.tier == tier)
    told_at = sa.func.coalesce(deliveries.c.delivered_at, deliveries.c.released_at)
    is_of_notice = deliveries.c.notice_id == notices.c.id
    stands = sa.exists().where(
        notices.c.video_id == videos.c.id,
        # guard notices.ended: a lapsed notice counts when the video is due again
        notices.c.ended_at.is_(None),
        # guard notices.tier: a notice under the user's earlier tier counts for the present one
        notices.c.tier == tier,
        # guard notices.expires: a video is retired before the day that its notice names
        notices.c.expires_at <= at,
        # guard notices.heard: a notice that was sent to no endpoint counts as given
        sa.exists().where(is_of_notice),
        # guard notices.days: a video is retired before its days of notice are over
        ~sa.exists().where(is_of_notice, sa.or_(told_at.is_(None), told_at > at - timedelta(days=days))),
    )
    return sa.or_(~is_of_tier, stands)


class Kept(NamedTuple):
    """A video kept on request until `until`, and how often it was prolonged."""

    video_id: str
    until: datetime
    times: int


def find_keep(session: Session, keep_id: str) -> Kept | None:
    """Read the outcome of an earlier request with this id; `times` is as of now."""
    row = session.execute(sa.select(keeps.c.video_id, keeps.c.until).where(keeps.c.id == keep_id)).one_or_none()
    return None if row is None else Kept(row.video_id, row.until, times_kept(session, row.video_id))


def times_kept(session: Session, video_id: str) -> int:
    """Count how often a video was prolonged."""
    return int(session.scalar(sa.select(sa.func.count()).where(keeps.c.video_id == video_id)) or 0)


def add_keep(session: Session, keep_id: str, video_id: str, *, days: int, until: datetime, author: str) -> None:
    """Record that a video is kept until `until`."""
    row = {"id": keep_id, "video_id": video_id, "author": author, "days": days, "until": until}
    session.execute(sa.insert(keeps).values(**row, at=now(session)))
