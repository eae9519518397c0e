"""Move all rows of a user to another id, in the caller's transaction. Money, bytes and counts of both add up."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import JobState
from reelkeeper.store.billing import ledger, quotas
from reelkeeper.store.core.engine import Clock, insert_into
from reelkeeper.store.jobs.queue import leads
from reelkeeper.store.tables import (
    accounts,
    alerts,
    cache_entries,
    charge_months,
    charges,
    credit_holds,
    entries,
    former_ids,
    holds,
    input_images,
    job_totals,
    jobs,
    key_owners,
    leases,
    operations,
    orphans,
    reservations,
    snoozes,
    storage_accounts,
    transfers,
    usage_days,
    users,
    verdicts,
    videos,
)

# Leases of what changes no user's rows: `deliver_alerts` and webhooks send messages, and jobs at work are asked for.
# That of `follow_bucket` is always held; while it handles events, it has another.
_HARMLESS: Final = ("flow/deliver_alerts", "flow/dispatch_jobs", "flow/follow_bucket")
_BATCH: Final = 2_000
_WITH_USER: Final = (
    videos,
    jobs,
    transfers,
    credit_holds,
    reservations,
    cache_entries,
    orphans,
    key_owners,
    verdicts,
    former_ids,
)
_SUMMED: Final[tuple[tuple[sa.Table, sa.Column[Any], tuple[str, ...]], ...]] = (
    (input_images, input_images.c.user_id, ()),
    (usage_days, usage_days.c.user_id, ("quantity",)),
    (charges, charges.c.user_id, ("consumed_quantity", "list_nanousd", "billed_nanousd")),
    (charge_months, charge_months.c.user_id, ("consumed_quantity", "list_nanousd", "billed_nanousd")),
    (job_totals, job_totals.c.scope, ("microusd", "refusals", "jobs", "milliseconds")),
)


def why_not(session: Session, before: str, after: str) -> str | None:
    """Return what prevents moving the rows: work under way, or two jobs with one idempotency key."""
    own = sa.select(videos.c.id).where(videos.c.user_id.in_([before, after]))
    mine = jobs.c.user_id.in_([before, after])
    at_work = sa.select(sa.func.count()).where(mine, jobs.c.state.in_([JobState.RUNNING, JobState.PARKED]))
    # guard rename.jobs: a worker ends a job of a user who is not there any more, and its credits stay held
    if count := session.execute(at_work).scalar_one():
        return f"{count:,} {'job is' if count == 1 else 'jobs are'} at work"
    # guard rename.intents: an upload or swap under way ends under an id that nobody has
    open_work = sa.select(operations.c.video_id).where(operations.c.state == "open", operations.c.video_id.in_(own))
    if video_id := session.execute(open_work.limit(1)).scalar():
        return f"work on video {video_id!r} is unfinished"
    # guard rename.runs: a run that has read the user's rows writes them again under the former id
    elsewhere = sa.and_(
        leases.c.name.like("video/%"),
        leases.c.name.not_in(sa.select("video/" + videos.c.id).where(videos.c.id.in_(own))),
    )
    harmless = sa.or_(leases.c.name.in_(_HARMLESS), leases.c.name.like("webhook/%"), elsewhere)
    held = sa.select(leases.c.name).where(leases.c.expires_at > Clock(), ~harmless)
    if name := session.execute(held.order_by(leases.c.name).limit(1)).scalar():
        return f"a run holds the lease {name}"
    other = jobs.alias()
    twice = sa.select(jobs.c.client_key).join(other, other.c.client_key == jobs.c.client_key)
    both = session.execute(twice.where(jobs.c.user_id == before, other.c.user_id == after).limit(1)).scalar()
    return f"both have a job with the idempotency key {both!r}" if both else None


def count(session: Session, before: str) -> dict[str, int]:
    """Count the rows that would move, by table."""
    found = {
        table.name: session.execute(sa.select(sa.func.count()).select_from(table).where(where)).scalar_one()
        for table, where in _rows(before)
    }
    return {name: rows for name, rows in found.items() if rows}


def _rows(before: str) -> Iterator[tuple[sa.Table, sa.ColumnElement[bool]]]:
    for table in _WITH_USER:
        yield table, sa.and_(table.c.user_id == before, *([table.c.id != before] if table is former_ids else []))
    yield holds, sa.and_(holds.c.scope == "user", holds.c.subject == before)
    yield entries, entries.c.account_id.in_([ledger.spendable(before), ledger.held(before)])
    yield alerts, alerts.c.scope == f"user:{before}"
    yield snoozes, snoozes.c.scope == f"user:{before}"
    yield storage_accounts, storage_accounts.c.user_id == before
    for table, column, _ in _SUMMED:
        yield table, column == (f"user:{before}" if table is job_totals else before)


def move(session: Session, before: str, after: str) -> None:
    """Move all rows; the user `before` is gone then, and `former_ids` says who it was."""
    _join_users(session, before, after)
    former = insert_into(session, former_ids).values(id=before, user_id=after)
    session.execute(former.on_conflict_do_update(index_elements=["id"], set_={"user_id": after}))
    for table in _WITH_USER:
        session.execute(sa.update(table).where(table.c.user_id == before).values(user_id=after))
    session.execute(sa.update(holds).where(holds.c.scope == "user", holds.c.subject == before).values(subject=after))
    _join_money(session, before, after)
    for table, column, figures in _SUMMED:
        _add_up(session, table, column, figures, before, after)
    _rename_scopes(session, before, after)
    session.execute(sa.delete(former_ids).where(former_ids.c.id == after))
    session.execute(sa.delete(users).where(users.c.id == before))


def requests(session: Session, user_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a user's requests and their keys in the cache."""
    query = sa.select(jobs.c.cache_key, jobs.c.request).where(jobs.c.user_id == user_id)
    for row in session.execute(query, execution_options={"yield_per": _BATCH}):
        yield row.cache_key, row.request


def move_cache_keys(session: Session, keys: Mapping[str, str]) -> None:
    """Change keys in the cache, of requests and of videos; where both have a job or a video, each keeps its own."""
    leader = jobs.alias()
    old, new = sa.bindparam("old", type_=sa.String), sa.bindparam("new", type_=sa.String)
    is_led = sa.exists().where(leader.c.cache_key == new, leads(leader))
    of_jobs = sa.update(jobs).where(jobs.c.cache_key == old, ~is_led).values(cache_key=new)
    has_one = sa.exists().where(cache_entries.alias("other").c.key == new)
    of_videos = sa.update(cache_entries).where(cache_entries.c.key == old, ~has_one).values(key=new)
    for before, after in keys.items():
        for statement in (of_jobs, of_videos):
            session.execute(statement, {"old": before, "new": after})


def _join_users(session: Session, before: str, after: str) -> None:
    """Make the user `after`, or complete it: its own tier comes first, and the earlier of both times."""
    old = session.execute(sa.select(users.c.tier, users.c.created_at).where(users.c.id == before)).one()
    new = session.execute(sa.select(users.c.tier, users.c.created_at).where(users.c.id == after)).one_or_none()
    if new is None:
        session.execute(sa.insert(users).values(id=after, tier=old.tier, created_at=old.created_at))
        return
    known = [at for at in (old.created_at, new.created_at) if at]
    values = {"tier": new.tier or old.tier, "created_at": min(known, default=None)}
    session.execute(sa.update(users).where(users.c.id == after).values(values))


def _join_money(session: Session, before: str, after: str) -> None:
    if session.execute(sa.select(accounts.c.id).where(accounts.c.user_id == before).limit(1)).scalar():
        ledger.open_accounts(session, after)
    for name in (ledger.spendable, ledger.held):
        old, new = name(before), name(after)
        balance = sa.select(accounts.c.balance_microusd).where(accounts.c.id == old).scalar_subquery()
        session.execute(sa.update(entries).where(entries.c.account_id == old).values(account_id=new))
        more = accounts.c.balance_microusd + sa.func.coalesce(balance, 0)
        session.execute(sa.update(accounts).where(accounts.c.id == new).values(balance_microusd=more))
        session.execute(sa.delete(accounts).where(accounts.c.id == old))
    stored = session.execute(sa.select(storage_accounts).where(storage_accounts.c.user_id == before)).one_or_none()
    session.execute(sa.delete(storage_accounts).where(storage_accounts.c.user_id == before))
    if stored is None:
        return
    values: dict[str, Any] = {
        "reserved_bytes": storage_accounts.c.reserved_bytes + stored.reserved_bytes,
        "quota_bytes": sa.func.coalesce(storage_accounts.c.quota_bytes, stored.quota_bytes),
    }
    if not quotas.ensure(session, [after]):  # one that is made now is counted from the videos
        values["used_bytes"] = storage_accounts.c.used_bytes + stored.used_bytes
    session.execute(sa.update(storage_accounts).where(storage_accounts.c.user_id == after).values(values))


def _add_up(
    session: Session, table: sa.Table, column: sa.Column[Any], figures: tuple[str, ...], before: str, after: str
) -> None:
    old, new = (f"user:{name}" if column.name == "scope" else name for name in (before, after))
    columns = [sa.literal(new) if each is column else each for each in table.c]
    insert = insert_into(session, table).from_select(
        [each.name for each in table.c], sa.select(*columns).where(column == old)
    )
    keys = [each.name for each in table.primary_key]
    if sums := {name: table.c[name] + insert.excluded[name] for name in figures}:
        insert = insert.on_conflict_do_update(index_elements=keys, set_=sums)
    else:
        insert = insert.on_conflict_do_nothing(index_elements=keys)
    session.execute(insert)
    session.execute(sa.delete(table).where(column == old))


def _rename_scopes(session: Session, before: str, after: str) -> None:
    """Rename the scopes of alerts and snoozes; an alert that both have stays that of `after`."""
    other = alerts.alias()
    same = sa.and_(*(other.c[name] == alerts.c[name] for name in ("rule", "period", "level")))
    both = sa.exists().where(other.c.scope == f"user:{after}", same)
    mine = alerts.c.scope == f"user:{before}"
    session.execute(sa.delete(alerts).where(mine, both))
    session.execute(sa.update(alerts).where(mine).values(scope=f"user:{after}"))
    session.execute(sa.update(snoozes).where(snoozes.c.scope == f"user:{before}").values(scope=f"user:{after}"))
