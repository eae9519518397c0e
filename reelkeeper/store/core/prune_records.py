"""Delete old rows that nothing refers to: one condition for each kind of record, and DELETEs of a bounded size.

A reference keeps a row: a job that follows another, a firing alert, a plan whose purges count as saved.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.alerts import AlertState, MessageState
from reelkeeper.model.jobs import IN_FLIGHT, VendorErasure
from reelkeeper.model.money import ReservationState
from reelkeeper.store.core.engine import changed, insert_into
from reelkeeper.store.tables import (
    alerts,
    blobs,
    crf_searches,
    daily_views,
    forecasts,
    input_images,
    job_totals,
    jobs,
    leases,
    notice_deliveries,
    notices,
    operations,
    outbox,
    performance_windows,
    plans,
    reservations,
    scans,
    snoozes,
    uploads,
    usage_days,
    vendor_erasures,
    vendor_jobs,
    verdicts,
    videos,
    webhook_endpoints,
)

Condition = Callable[[datetime], sa.ColumnElement[bool]]

_OF_VIDEO: Final = "video/"


class Kind(NamedTuple):
    """A kind of record: its table, the policy's field with its retention, and which older rows may be deleted."""

    table: sa.Table
    field: str
    may_go: Condition


def _message(cutoff: datetime) -> sa.ColumnElement[bool]:
    """Build the condition for messages that may be deleted: not those that reported an open alert.

    Messages for an endpoint that has been disabled for as long may be deleted, too.
    """
    # guard outbox.numbers: SQLite gives the last message's number again, and receivers drop its event as known
    is_followed = outbox.c.id < sa.select(sa.func.max(outbox.c.id)).scalar_subquery()
    open_ = sa.select(alerts.c.message_id).where(
        alerts.c.state != AlertState.RESOLVED, alerts.c.message_id.is_not(None)
    )
    dead = sa.select(webhook_endpoints.c.id).where(webhook_endpoints.c.disabled_at < cutoff)
    over = sa.or_(outbox.c.state != MessageState.WAITING, outbox.c.endpoint_id.in_(dead))
    return sa.and_(over, is_followed, outbox.c.created_at < cutoff, outbox.c.id.not_in(open_))


def _verdict(cutoff: datetime) -> sa.ColumnElement[bool]:
    old = sa.select(plans.c.id).where(_old_plan(cutoff))
    return sa.and_(verdicts.c.plan_id.in_(old), verdicts.c.outcome.is_distinct_from("purged"))


def _plan(cutoff: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(_old_plan(cutoff), plans.c.id.not_in(sa.select(verdicts.c.plan_id)))


def _old_plan(cutoff: datetime) -> sa.ColumnElement[bool]:
    """Build the condition for old plans: not a flow's last, nor the last applied of all, nor one under way."""
    later = plans.alias()
    newer = later.c.created_at > plans.c.created_at
    of_its_flow = sa.exists().where(later.c.flow == plans.c.flow, newer)
    applied = sa.exists().where(later.c.state == "applied", newer)
    held = sa.exists().where(leases.c.name == sa.literal("plan/").concat(plans.c.id), leases.c.holder != "")
    return sa.and_(plans.c.created_at < cutoff, of_its_flow, applied, ~held)


def _job(cutoff: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(_old_job(cutoff), ~sa.exists().where(vendor_jobs.c.job_id == jobs.c.id))


def _old_job(cutoff: datetime) -> sa.ColumnElement[bool]:
    follower = jobs.alias()
    followed = sa.exists().where(follower.c.leader_id == jobs.c.id)
    return sa.and_(jobs.c.finished_at < cutoff, jobs.c.state.not_in(IN_FLIGHT), ~followed)


def _vendor_job(cutoff: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(_of_old_job(cutoff), vendor_jobs.c.key.not_in(sa.select(vendor_erasures.c.key)))


def _vendor_erasure(cutoff: datetime) -> sa.ColumnElement[bool]:
    is_old = vendor_erasures.c.key.in_(sa.select(vendor_jobs.c.key).where(_of_old_job(cutoff)))
    # guard vendor_erase.pruned: a vendor that is down keeps a video, since we forget that it has it
    return sa.and_(is_old, vendor_erasures.c.state != VendorErasure.WAITING)


def _of_old_job(cutoff: datetime) -> sa.ColumnElement[bool]:
    return vendor_jobs.c.job_id.in_(sa.select(jobs.c.id).where(_old_job(cutoff)))


def _upload(cutoff: datetime) -> sa.ColumnElement[bool]:
    # guard erase.pruned_upload: the key of an upload that never came names its user after the user's erasure
    never_came = sa.exists().where(blobs.c.id == uploads.c.blob_id, blobs.c.video_id.is_(None))
    is_old = uploads.c.reservation_id.in_(sa.select(reservations.c.id).where(_settled(cutoff)))
    return sa.and_(is_old, ~never_came)


def _reservation(cutoff: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(_settled(cutoff), reservations.c.id.not_in(sa.select(uploads.c.reservation_id)))


def _settled(cutoff: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(reservations.c.state != ReservationState.OPEN, reservations.c.settled_at < cutoff)


def _alert(cutoff: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(alerts.c.state == AlertState.RESOLVED, alerts.c.last_at < cutoff, alerts.c.resolved_at < cutoff)


def _intent(cutoff: datetime) -> sa.ColumnElement[bool]:
    """Build the condition for old intents: not those of a swap that can still be undone within a long grace."""
    old = sa.func.coalesce(operations.c.aside_blob_id, operations.c.old_blob_id)
    still_there = sa.exists().where(blobs.c.id == old, blobs.c.state != BlobState.GONE)
    return sa.and_(operations.c.state != "open", operations.c.updated_at < cutoff, ~still_there)


def _lease(cutoff: datetime) -> sa.ColumnElement[bool]:
    """Build the condition for leases of videos that nothing works on; a holder's name keeps its token apart later."""
    video_id = sa.func.substr(leases.c.name, len(_OF_VIDEO) + 1)
    is_old = sa.and_(leases.c.name.startswith(_OF_VIDEO), leases.c.expires_at < cutoff)
    purged = sa.exists().where(blobs.c.video_id == video_id, blobs.c.state == BlobState.DELETING)
    is_open = operations.c.state == sa.literal("open", literal_execute=True)  # as the index has it
    unfinished = sa.exists().where(operations.c.video_id == video_id, is_open)
    # guard leases.of_intents: what an unfinished swap was done under is forgotten before it is settled
    return sa.and_(is_old, ~purged, ~unfinished)


def _scan(cutoff: datetime) -> sa.ColumnElement[bool]:
    later = scans.alias()
    good = sa.exists().where(later.c.outcome == "good", later.c.started_at > scans.c.started_at)
    return sa.and_(scans.c.started_at < cutoff, good)


def _total(cutoff: datetime) -> sa.ColumnElement[bool]:
    """Build the condition for old totals: those of months that were over by then. In-flight totals have no period."""
    return sa.and_(job_totals.c.period != "", job_totals.c.period < f"{cutoff:%Y-%m}")


def _notice(cutoff: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(_over(cutoff), notices.c.id.not_in(sa.select(notice_deliveries.c.notice_id)))


def _notice_delivery(cutoff: datetime) -> sa.ColumnElement[bool]:
    return notice_deliveries.c.notice_id.in_(sa.select(notices.c.id).where(_over(cutoff)))


def _over(cutoff: datetime) -> sa.ColumnElement[bool]:
    """Build the condition for notices that are over: ended, or of a video that is no longer live."""
    is_live = sa.exists().where(videos.c.id == notices.c.video_id, videos.c.state == VideoState.LIVE)
    return sa.and_(notices.c.given_at < cutoff, sa.or_(notices.c.ended_at < cutoff, ~is_live))


KINDS: Final = (  # referring rows before the rows that they refer to
    Kind(outbox, "messages_days", _message),
    Kind(notice_deliveries, "messages_days", _notice_delivery),
    Kind(notices, "messages_days", _notice),
    Kind(verdicts, "plans_days", _verdict),
    Kind(plans, "plans_days", _plan),
    Kind(vendor_erasures, "jobs_days", _vendor_erasure),
    Kind(vendor_jobs, "jobs_days", _vendor_job),
    Kind(jobs, "jobs_days", _job),
    Kind(uploads, "jobs_days", _upload),
    Kind(reservations, "jobs_days", _reservation),
    Kind(operations, "intents_days", _intent),
    Kind(leases, "intents_days", _lease),
    Kind(crf_searches, "searches_days", lambda cutoff: crf_searches.c.at < cutoff),
    Kind(scans, "scans_days", _scan),
    Kind(alerts, "alerts_days", _alert),
    Kind(snoozes, "alerts_days", lambda cutoff: snoozes.c.until < cutoff),
    Kind(performance_windows, "windows_days", lambda cutoff: performance_windows.c.start_at < cutoff),
    Kind(daily_views, "views_days", lambda cutoff: daily_views.c.day < cutoff.date()),
    Kind(usage_days, "usage_days", lambda cutoff: usage_days.c.day < cutoff.date()),
    Kind(job_totals, "totals_days", _total),
    Kind(forecasts, "forecasts_days", lambda cutoff: forecasts.c.as_of < cutoff),
)


def count(session: Session, kind: Kind, cutoff: datetime) -> int:
    """Count the rows of a kind that may be deleted."""
    may_go = sa.select(sa.func.count()).select_from(kind.table).where(kind.may_go(cutoff))
    return int(session.execute(may_go).scalar_one())


def delete(session: Session, kind: Kind, cutoff: datetime, limit: int) -> int:
    """Delete at most `limit` rows of a kind that may be deleted and that nobody changes now; returns how many."""
    key = sa.tuple_(*kind.table.primary_key.columns)
    some = sa.select(*kind.table.primary_key.columns).where(kind.may_go(cutoff)).limit(limit)
    # guard leases.taken_meanwhile: a row goes as its last state allowed, such as the lease that a run has just taken
    some = some.with_for_update(of=kind.table, skip_locked=True)
    gone = sa.delete(kind.table).where(key.in_(some))
    if kind.table is not jobs:
        return changed(session, gone)
    began_with = jobs.c.request["image_sha256"].as_string().label("sha256")
    rows = session.execute(gone.returning(jobs.c.user_id, began_with)).all()
    # guard erase.pruned_image: an image outlives its user's erasure once the jobs that began with it are deleted
    if images := [row._asdict() for row in rows if row.sha256]:
        session.execute(insert_into(session, input_images).on_conflict_do_nothing(), images)
    return len(rows)
