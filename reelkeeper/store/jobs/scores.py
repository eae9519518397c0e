"""Score waiting jobs once, so that a claim reads the first ones by an index, however many wait.

A line is the waiting jobs of one provider and model; its name begins with the mark of the order that their scores are
of. Only claims write here, one at a time. A score is of a job's arrival, or of its return to the queue; it is lowered
as the jobs of its user before it start, so far as it is among the first of them.
"""

import json
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlmodel import Session

from reelkeeper.model.jobs import MOST_TIMES, Served, SizeAndAge, WaitingJob
from reelkeeper.store.core.engine import Clock, checked
from reelkeeper.store.jobs.claims import lane_of, outside
from reelkeeper.store.jobs.queue import waits
from reelkeeper.store.tables import jobs

BATCH: Final = 1_000  # jobs that one claim scores
_MOST_LINES, _MOST_COUNTED = 64, 100_000
_OLDEST, _FIRST = 100, 200  # jobs to choose from
# Bursts of a user whose jobs' scores are kept exact. In simulations in which a tenth to a half of the jobs are a few
# users', mean, p95, longest wait and the mean of all other users differ from an exact order by at most .4 %; by up to
# 2 % with two bursts, and by up to 40 % where scores stay as they were at arrival.
_BURSTS, _MOST_KEPT = 4, 128
_AGE: Final = (jobs.c.created_at, jobs.c.id)
_SUBMITTED: Final = jobs.c.created_at.label("submitted_at")
_TOLD: Final = (jobs.c.id, jobs.c.user_id, jobs.c.tier, _SUBMITTED, jobs.c.estimate_seconds)
_SCORE: Final = sa.update(jobs).where(jobs.c.id == sa.bindparam("job_id"))


def score(session: Session, rank: SizeAndAge) -> bool:
    """Score jobs that have no score by `rank` yet, at most BATCH; return whether `firsts` can choose now.

    It cannot while other jobs have none, or jobs of too many lines wait.
    """
    room, lines = BATCH, _lines(session)
    if len(lines) > _MOST_LINES:
        return False
    for line in (None, *(line for line in lines if not line.startswith(rank.mark))):
        room -= _score(session, rank, line, room)
        # guard claims.scored: of more jobs than one claim scores, those without a score are passed over
        if room <= 0:
            return False
    return True


def is_scored(session: Session, rank: SizeAndAge) -> bool:
    """Check whether `firsts` can choose: all waiting jobs have a score by `rank`."""
    others = sa.select(jobs.c.id).where(waits(jobs), jobs.c.line.is_(None))
    lines = _lines(session)
    is_current = len(lines) <= _MOST_LINES and all(line.startswith(rank.mark) for line in lines)
    return is_current and session.execute(others.limit(1)).first() is None


def firsts(
    session: Session,
    rank: SizeAndAge,
    *,
    full: Collection[str] = (),
    taken: Collection[str] = (),
    others: Collection[tuple[str, str]] = (),
    served: Served | None = None,
) -> list[WaitingJob]:
    """Return the first of the scored jobs to choose from: the oldest, and those with the lowest scores.

    The parameters are those of `claims.waiting_jobs`. Lines of full scopes and of other workers are not read.
    """
    lines = [line for line in _lines(session) if line.startswith(rank.mark) and _is_open(line, full, others, served)]
    if not lines:
        return []
    dialect = session.get_bind().dialect.name
    statement = _window(dialect, frozenset(full), tuple(taken), tuple(others), served)
    rows = session.execute(statement, {"keys": _keys(dialect, lines)})
    return [WaitingJob(**row._asdict()) for row in rows]


def move_up(session: Session, rank: SizeAndAge, user_ids: Collection[str]) -> None:
    """Score anew the first waiting jobs of users of whom some have just started."""
    dialect = session.get_bind().dialect.name
    rows = session.execute(_too_low(dialect, rank.burst), {"keys": _keys(dialect, sorted(user_ids))})
    _write(session, rank, [tuple(row) for row in rows])


def places(session: Session, rank: SizeAndAge, user_ids: Collection[str]) -> dict[str, int]:
    """Count, for each of the first waiting jobs of users, those of its user before it."""
    dialect = session.get_bind().dialect.name
    rows = session.execute(_of_users(dialect, rank.burst), {"keys": _keys(dialect, sorted(user_ids))})
    return dict(rows.all())


def _score(session: Session, rank: SizeAndAge, line: str | None, limit: int) -> int:
    """Score at most `limit` jobs of a line of another order, or of none; return their number."""
    about = {"line": line, "limit": limit} if line else {"limit": limit}
    rows = [tuple(row) for row in session.execute(_of_line(rank.burst, is_scored=line is not None), about)]
    _write(session, rank, rows)
    return len(rows)


@lru_cache(maxsize=4)  # building it takes more CPU than reading its rows
def _of_line(burst: int, *, is_scored: bool) -> sa.Select[Any]:
    """Select jobs of a line, or without one, and how many of its user's wait before each."""
    before = jobs.alias()
    is_older = sa.tuple_(before.c.created_at, before.c.id) < sa.tuple_(*_AGE)
    theirs = sa.select(before.c.id).where(waits(before), before.c.user_id == jobs.c.user_id, is_older)
    some = theirs.limit(min(burst * MOST_TIMES, _MOST_COUNTED)).correlate(jobs).subquery()
    ahead = sa.select(sa.func.count()).select_from(some).scalar_subquery()
    is_of_it = jobs.c.line == sa.bindparam("line") if is_scored else jobs.c.line.is_(None)
    wanted = sa.select(*_TOLD, jobs.c.lane, jobs.c.model, ahead).where(waits(jobs), is_of_it)
    return wanted.limit(sa.bindparam("limit", type_=sa.Integer)).with_for_update(of=jobs, skip_locked=True)


def _write(session: Session, rank: SizeAndAge, rows: Sequence[tuple[Any, ...]]) -> None:
    new = [
        {
            "job_id": job_id,
            "line": f"{rank.mark} {lane or ''} {model}",
            "score": rank.score(tier, submitted_at, seconds, ahead),
            "place": ahead,
        }
        for job_id, _, tier, submitted_at, seconds, lane, model, ahead in rows
    ]
    if new:
        session.connection().execute(_SCORE, new)


def _lines(session: Session) -> list[str]:
    """List the lines of waiting jobs, by a jump from each to the next."""
    return [line for line in session.execute(_LINES).scalars() if line is not None]


def _all_lines() -> sa.Select[Any]:
    least = sa.select(sa.func.min(jobs.c.line).label("line")).select_from(jobs).where(waits(jobs))
    found = least.cte("found", recursive=True)
    following = least.where(jobs.c.line > found.c.line).correlate(found)
    found = found.union_all(sa.select(following.scalar_subquery()).where(found.c.line.is_not(None)))
    return sa.select(found.c.line).limit(_MOST_LINES + 2)  # the last one is null


_LINES: Final = _all_lines()  # built once: building a statement costs more than sending it


def _is_open(line: str, full: Collection[str], others: Collection[tuple[str, str]], served: Served | None) -> bool:
    """Check whether jobs of a line may be begun, as far as their provider and model decide."""
    lane, _, model = line.partition(" ")[2].partition(" ")
    to = served.lane(lane or None) if served else lane
    is_ours = not served or to is not None
    return is_ours and (model, lane) not in others and f"provider:{to}" not in full and f"model:{model}" not in full


def _keys(dialect: str, keys: Sequence[str]) -> Any:  # noqa: ANN401  a list is one parameter on both databases
    return json.dumps(keys) if dialect == "sqlite" else list(keys)


def _of_each(
    dialect: str,
    column: sa.Column[Any],
    order: Sequence[Any],
    count: int,
    *chosen: sa.ColumnElement[bool],
) -> sa.Select[Any]:
    """Select the ids of the first waiting jobs for each of the `keys`, which are values of `column`."""
    if dialect == "sqlite":  # has no LATERAL
        key = sa.func.json_each(sa.bindparam("keys", type_=sa.String())).table_valued("value")
        found = jobs.alias()
    else:
        keys = sa.bindparam("keys", type_=postgresql.ARRAY(sa.String()))
        key = sa.func.unnest(keys).table_valued("value").render_derived()
    of_one = sa.select(jobs.c.id).where(waits(jobs), column == key.c.value, *chosen).order_by(*order).limit(count)
    if dialect == "sqlite":
        return sa.select(found.c.id).select_from(key.join(found, found.c.id.in_(of_one.correlate(key))))
    each = of_one.correlate(key).lateral()
    return sa.select(each.c.id).select_from(key.join(each, sa.true()))


@lru_cache(maxsize=16)  # building it takes more CPU than reading its rows
def _window(
    dialect: str,
    full: frozenset[str],
    taken: tuple[str, ...],
    others: tuple[tuple[str, str], ...],
    served: Served | None,
) -> sa.Select[Any]:
    chosen = (checked(jobs.c.due_at <= Clock()), outside(full, taken, others, served))
    windows = []
    by_score = (jobs.c.score, *_AGE)
    for order, count in ((by_score, _FIRST), (_AGE, _OLDEST)):
        of_lines = _of_each(dialect, jobs.c.line, order, count, *chosen).subquery()
        windows.append(
            sa.select(jobs.c.id).join_from(of_lines, jobs, jobs.c.id == of_lines.c.id).order_by(*order).limit(count)
        )
    ids = sa.union(*(sa.select(window.subquery()) for window in windows)).subquery()
    columns = (jobs.c.model, jobs.c.place.label("ahead"), lane_of(served).label("lane"))
    return sa.select(*_TOLD, *columns).join_from(ids, jobs, jobs.c.id == ids.c[0])


@lru_cache(maxsize=4)
def _of_users(dialect: str, burst: int) -> sa.Select[Any]:
    """Select the first waiting jobs of users, and how many of its user's are before each."""
    ids = _of_each(dialect, jobs.c.user_id, _AGE, min(burst * _BURSTS, _MOST_KEPT)).subquery()
    ahead = (sa.func.row_number().over(partition_by=jobs.c.user_id, order_by=_AGE) - 1).label("ahead")
    return sa.select(jobs.c.id, ahead).join_from(ids, jobs, jobs.c.id == ids.c.id)


@lru_cache(maxsize=4)
def _too_low(dialect: str, burst: int) -> sa.Select[Any]:
    """Select the first waiting jobs of users whose score counts more bursts ahead than there are."""
    first = _of_users(dialect, burst).subquery()
    counts_more = sa.and_(jobs.c.line.is_not(None), jobs.c.place // burst > first.c.ahead // burst)
    wanted = sa.select(*_TOLD, jobs.c.lane, jobs.c.model, first.c.ahead).join_from(first, jobs, jobs.c.id == first.c.id)
    return wanted.where(counts_more).with_for_update(of=jobs, skip_locked=True)
