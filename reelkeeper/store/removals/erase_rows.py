"""Erase a user's rows: delete some, keep the books' under a pseudonym, and remove the ids from texts.

`personal_data` lists which applies to each column. It is one transaction, after all bytes of the user are
deleted.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.alerts import MessageState
from reelkeeper.store.core.engine import changed
from reelkeeper.store.removals.erasures import Erasing
from reelkeeper.store.removals.personal_data import NOTES, searched
from reelkeeper.store.tables import (
    accounts,
    alerts,
    blobs,
    cache_entries,
    charge_months,
    charges,
    credit_holds,
    crf_searches,
    daily_views,
    doubts,
    entries,
    former_ids,
    holds,
    input_images,
    job_totals,
    jobs,
    keeps,
    key_owners,
    leases,
    notice_deliveries,
    notices,
    operations,
    orphans,
    outbox,
    reservations,
    snoozes,
    storage_accounts,
    transfers,
    uploads,
    usage_days,
    users,
    verdicts,
    videos,
)

Clean = Callable[[Any], Any]  # a JSON value -> the same without the ids
InAnothers = Callable[[Mapping[str, Any]], bool]  # a record of another user -> whether it names the user
_REQUEST: Final = ("width", "height", "duration_seconds", "fps")  # of a job's request: its cost depends on them
_NO_BLOB: Final[dict[str, Any]] = {
    "key": sa.literal("erased/") + sa.cast(blobs.c.id, sa.String),
    **dict.fromkeys(("video_id", "etag", "sha256", "content_type", "retire_reason", "recipe")),
}
_BATCH: Final = 500


def erase(
    session: Session, erasing: Erasing, clean: Clean, forms: Collection[str], is_in_anothers: InAnothers
) -> dict[str, int]:
    """Erase all rows of a user, and their ids from the rows of others; return how many rows of each table were deleted.

    `clean` replaces the ids in a JSON value; `forms` lists the user's, in each form that a text may have.
    `is_in_anothers` tells of a message about another user whether it names the user; only then it is not sent.
    """
    user_id, pseudonym = erasing.user_id, erasing.pseudonym
    session.execute(
        sa.insert(users).values(id=pseudonym, pseudonym=pseudonym, erasing_at=erasing.since, tier=None, created_at=None)
    )
    for name, columns in searched().items():
        _clean_texts(session, clean, is_in_anothers, name, columns)
    for name, notes in NOTES.items():
        # guard erase.notes: the reason of another user's hold, refund or refusal still names the erased user
        _clean_texts(session, clean, is_in_anothers, name, notes, forms)
    _empty_work(session, user_id, pseudonym)
    _rename_books(session, user_id, pseudonym)
    return _delete(session, user_id)


def _own_videos(user_id: str) -> sa.Select[tuple[str]]:
    return sa.select(videos.c.id).where(videos.c.user_id == user_id)


def _delete(session: Session, user_id: str) -> dict[str, int]:
    own_videos = _own_videos(user_id)
    reserved = sa.select(reservations.c.id).where(reservations.c.user_id == user_id)
    put = sa.select(uploads.c.blob_id).where(uploads.c.reservation_id.in_(reserved))
    of_user = sa.or_(blobs.c.video_id.in_(own_videos), blobs.c.id.in_(put))
    keys = sa.select(blobs.c.key).where(of_user)
    on_user = sa.and_(holds.c.scope == "user", holds.c.subject == user_id)
    on_video = sa.and_(holds.c.scope == "video", holds.c.subject.in_(own_videos))
    video = sa.literal("video/")
    of_videos = sa.select(video.concat(videos.c.id)).where(videos.c.user_id == user_id)
    of_uploads = sa.select(video.concat(uploads.c.video_id)).where(uploads.c.reservation_id.in_(reserved))
    session.execute(sa.update(videos).where(videos.c.user_id == user_id).values(blob_id=None))
    gone = [
        (
            notice_deliveries,
            notice_deliveries.c.notice_id.in_(sa.select(notices.c.id).where(notices.c.video_id.in_(own_videos))),
        ),
        (notices, notices.c.video_id.in_(own_videos)),
        (keeps, keeps.c.video_id.in_(own_videos)),
        (daily_views, daily_views.c.video_id.in_(own_videos)),
        (operations, operations.c.video_id.in_(own_videos)),
        (cache_entries, sa.or_(cache_entries.c.video_id.in_(own_videos), cache_entries.c.user_id == user_id)),
        (holds, sa.or_(on_user, on_video)),
        (leases, leases.c.name.in_(of_videos.union_all(of_uploads))),
        (orphans, sa.or_(orphans.c.user_id == user_id, orphans.c.video_id.in_(own_videos), orphans.c.key.in_(keys))),
        (
            key_owners,
            sa.or_(key_owners.c.user_id == user_id, key_owners.c.video_id.in_(own_videos), key_owners.c.key.in_(keys)),
        ),
        (doubts, doubts.c.blob_id.in_(sa.select(blobs.c.id).where(of_user))),
        (uploads, uploads.c.reservation_id.in_(reserved)),
        (reservations, reservations.c.user_id == user_id),
        (storage_accounts, storage_accounts.c.user_id == user_id),
        (videos, videos.c.user_id == user_id),
        (input_images, input_images.c.user_id == user_id),
        (former_ids, former_ids.c.user_id == user_id),
        (users, users.c.id == user_id),
    ]
    counts: dict[str, int] = {}
    for table, which in gone:
        if table is uploads:  # the other rows with keys are deleted, and uploads still name their blobs
            emptied = sa.update(blobs).where(of_user).values(_NO_BLOB)
            # guard erase.blob_number: SQLite reuses a deleted blob's number, and audit events then name another blob
            session.execute(emptied)
        counts[table.name] = changed(session, sa.delete(table).where(which))
    return {name: count for name, count in counts.items() if count}


def _empty_work(session: Session, user_id: str, pseudonym: str) -> None:
    """Empty jobs and plans except for their costs and durations."""
    own_videos = _own_videos(user_id)
    session.execute(
        sa.update(verdicts)
        .where(sa.or_(verdicts.c.user_id == user_id, verdicts.c.video_id.in_(own_videos)))
        .values(user_id=pseudonym, video_id=None, reason="", outcome_reason=None)
    )
    session.execute(sa.update(crf_searches).where(crf_searches.c.video_id.in_(own_videos)).values(video_id=pseudonym))
    # guard erase.shared: other users' jobs that got the user's video prevent deleting its row, and the user's
    session.execute(sa.update(jobs).where(jobs.c.video_id.in_(own_videos)).values(video_id=None))
    emptied: dict[str, Any] = {
        "client_key": jobs.c.id,
        "cache_key": jobs.c.id,
        "request_sha256": "",
        "error": None,
        "tag": None,
        "caller_metadata": {},
        "webhook_url": None,
    }
    for rows in _pages(session, jobs, [jobs.c.id], [jobs.c.model, jobs.c.request], jobs.c.user_id == user_id):
        kept = [
            {"row_id": row.id, "left": {"model": row.model, "prompt": "erased"} | _among(row.request, _REQUEST)}
            for row in rows
        ]
        session.connection().execute(
            sa.update(jobs)
            .where(jobs.c.id == sa.bindparam("row_id"))
            .values(**emptied, user_id=pseudonym, reservation_id=None, video_id=None, request=sa.bindparam("left")),
            kept,
        )


def _among(request: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: request[name] for name in names if name in request}


def _rename_books(session: Session, user_id: str, pseudonym: str) -> None:
    """Replace the user's id with the pseudonym in the books; amounts stay."""
    for kind in ("user", "held"):
        before, after = f"{kind}/{user_id}", f"{kind}/{pseudonym}"
        old = sa.select(sa.literal(after), accounts.c.kind, sa.literal(pseudonym), accounts.c.balance_microusd)
        columns = ["id", "kind", "user_id", "balance_microusd"]
        session.execute(sa.insert(accounts).from_select(columns, old.where(accounts.c.id == before)))
        session.execute(sa.update(entries).where(entries.c.account_id == before).values(account_id=after))
        session.execute(sa.delete(accounts).where(accounts.c.id == before))
    for rows in _pages(session, transfers, [transfers.c.id], [transfers.c.detail], transfers.c.user_id == user_id):
        figures = [
            {
                "row_id": row.id,
                "key": f"erased/{row.id}",
                "left": {name: value for name, value in row.detail.items() if isinstance(value, int | float)},
            }
            for row in rows
        ]
        values = {"idempotency_key": sa.bindparam("key"), "detail": sa.bindparam("left"), "request_sha256": ""}
        statement = sa.update(transfers).where(transfers.c.id == sa.bindparam("row_id"))
        session.connection().execute(statement.values(**values, user_id=pseudonym), figures)
    for table in (credit_holds, usage_days, charges, charge_months):
        session.execute(sa.update(table).where(table.c.user_id == user_id).values(user_id=pseudonym))
    for table in (job_totals, alerts, snoozes):
        session.execute(sa.update(table).where(table.c.scope == f"user:{user_id}").values(scope=f"user:{pseudonym}"))


def _clean_texts(
    session: Session,
    clean: Clean,
    is_in_anothers: InAnothers,
    name: str,
    columns: Sequence[str],
    only_with: Collection[str] | None = None,
) -> None:
    """Replace the ids wherever a text contains them. A webhook event that contains one is not sent.

    `only_with` leaves rows without any of these texts unread, in tables that grow with the videos.
    """
    table = videos.metadata.tables[name]
    key, chosen = list(table.primary_key), [table.c[column] for column in columns]
    where = sa.or_(*(_contains(column, only_with) for column in chosen)) if only_with else None
    for rows in _pages(session, table, key, chosen, where):
        for row in rows:
            before = {column: getattr(row, column) for column in columns}
            after = clean(before)
            if after == before:
                continue
            this = sa.and_(*(column == getattr(row, column.name) for column in key))
            if table is outbox and row.endpoint_id is not None:
                data = before["payload"]["data"]
                said = {**before, "payload": None, **data}
                # guard erase.anothers_event: a service never hears of another user's job whose model has a common name
                if data.get("user_id") and not is_in_anothers(said):
                    continue
                after = {"state": MessageState.WITHDRAWN, "last_error": None, "subject": None, "url": None}
                after["payload"] = {**before["payload"], "data": {}}
            session.execute(sa.update(table).where(this).values(after))


def _contains(column: sa.Column[Any], texts: Collection[str]) -> sa.ColumnElement[bool]:
    stored = sa.cast(column, sa.String)
    written = {*texts, *(json.dumps(text)[1:-1] for text in texts)}  # the latter as a JSON column has it
    return sa.or_(*(stored.contains(text, autoescape=True) for text in sorted(written)))


def _pages(
    session: Session,
    table: sa.Table,
    key: list[sa.Column[Any]],
    columns: list[sa.Column[Any]],
    where: sa.ColumnElement[bool] | None = None,
) -> Iterator[list[sa.Row[Any]]]:
    """Read rows in batches, in the order of their keys; each batch may be changed before the next is read."""
    more = [table.c.endpoint_id] if table is outbox else []
    query = sa.select(*key, *columns, *more).order_by(*key).limit(_BATCH)
    if where is not None:
        query = query.where(where)
    last: tuple[Any, ...] | None = None
    while True:
        behind = (
            sa.tuple_(*key)
            > sa.tuple_(*(sa.literal(value, column.type) for value, column in zip(last, key, strict=True)))
            if last
            else sa.true()
        )
        rows = list(session.execute(query.where(behind)))
        if not rows:
            return
        last = tuple(getattr(rows[-1], column.name) for column in key)
        yield rows
