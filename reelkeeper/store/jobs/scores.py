"""Score waiting jobs once, so that a claim reads the first ones by an index, however many wait.

A line is the waiting jobs of one provider and model; its name begins with the mark of the order that their scores are
of. Only claims write here, one at a time. A score is of a job's arrival, or of its return to the queue; it is lowered
as the jobs of its user before it start, so far as it is among the first of them, and of those among the next to start.
"""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlmodel import Session

from reelkeeper.model.jobs import MOST_TIMES, Served, SizeAndAge, WaitingJob
from reelkeeper.store.core.engine import Clock, changed, checked
from reelkeeper.store.jobs.claims import lane_of, outside, seconds_of, times_of
from reelkeeper.store.jobs.queue import waits
from reelkeeper.store.tables import jobs

BATCH: Final = 1_000  # jobs that one claim scores
_MOST_LINES, _MOST_COUNTED = 64, 100_000
_OLDEST, _FIRST = 100, 200  # jobs to choose from, at most
# Bursts of a user whose jobs' scores are kept exact. In simulations in which a tenth to a half of the jobs are a few
# users', mean, p95, longest wait and the mean of all other users differ from an exact order by at most .4 %; by up to
# 2 % with two bursts, and by up to 40 % where scores stay as they were at arrival.
_BURSTS, _MOST_KEPT = 4, 128
# Jobs of a user that are kept exact among these, at least: as many as a claim starts of one user. A user with
# half of 1,000 jobs, eight of which are claimed at once, waited 19 to 21 % longer with four, 10 to 13 % so.
_NEXT: Final = 4
_NEEDED: Final = (*WaitingJob._fields[:3], "created_at", "estimate_seconds", "model", "lane", "line", "score", "place")
_AGE: Final = (jobs.c.created_at, jobs.c.id)
_BY_LINE: Final = (jobs.c.line, *_AGE)  # by its index: PostgreSQL expects jobs without a line everywhere, and reads all


class Window(NamedTuple):
    """Where to read jobs to choose from: lines of `rank`, and of each so many of the best and of the oldest."""

    rank: SizeAndAge
    lines: Sequence[str]
    best: int = _FIRST
    oldest: int = _OLDEST

    @classmethod
    def of(cls, rank: SizeAndAge, lines: Sequence[str], slots: int) -> "Window":
        """Return what so many slots need, and as many more as may move up when jobs of their user start."""
        return cls(rank, lines, min(slots + _most_ahead(rank), _FIRST), min(slots, _OLDEST))


def score(session: Session, rank: SizeAndAge) -> list[str] | None:
    """Score jobs that have no score by `rank` yet, at most BATCH; return the lines that `firsts` can choose from.

    None: it cannot, while other jobs have none, or jobs of too many lines wait.
    """
    room = BATCH - _score(session, rank, None, BATCH)
    lines = _lines(session)
    former = [line for line in lines if not line.startswith(rank.mark)]
    for line in former:
        room -= _score(session, rank, line, max(room, 0))
    # guard claims.scored: of more jobs than one claim scores, those without a score are passed over
    if room <= 0:
        return None
    return _few(_lines(session) if former else lines)


def scored(session: Session, rank: SizeAndAge) -> list[str] | None:
    """Return the lines that `firsts` can choose from; None where it cannot: not all jobs have a score by `rank`."""
    others = sa.select(jobs.c.id).where(waits(jobs), jobs.c.line.is_(None)).order_by(*_BY_LINE)
    lines = _lines(session)
    is_current = all(line.startswith(rank.mark) for line in lines)
    return _few(lines) if is_current and session.execute(others.limit(1)).first() is None else None


def _few(lines: list[str]) -> list[str] | None:
    return lines if len(lines) <= _MOST_LINES else None


def firsts(
    session: Session,
    window: Window,
    *,
    full: Collection[str] = (),
    taken: Collection[str] = (),
    others: Collection[tuple[str, str]] = (),
    served: Served | None = None,
) -> list[WaitingJob]:
    """Return the first of the scored jobs to choose from: the oldest, and those with the lowest scores.

    The parameters are those of `claims.waiting_jobs`. Lines of full scopes and of other workers are not read.
    """
    lines = [line for line in window.lines if _is_open(line, full, others, served)]
    if not lines:
        return []
    dialect = session.get_bind().dialect.name
    most = _most_ahead(window.rank)
    statement = _window(dialect, most, frozenset(full), tuple(taken), tuple(others), served)
    about = {"lines": _keys(dialect, lines), "best": window.best, "oldest": window.oldest}
    found = ((WaitingJob(*job), counted) for *job, counted in session.execute(statement, about))
    return [job._replace(ahead=counted) if counted < most else job for job, counted in found]


def move_up(session: Session, rank: SizeAndAge, started: Collection[str]) -> None:
    """Score anew the first waiting jobs of users of whom some have just `started`, each as often as one has."""
    dialect = session.get_bind().dialect.name
    about = {"users": _keys(dialect, sorted({*started})), "next": max(_NEXT, *Counter(started).values())}
    session.execute(_lower(dialect, rank), about)


def _most_ahead(rank: SizeAndAge) -> int:
    return min(rank.burst * _BURSTS, _MOST_KEPT)


def _score(session: Session, rank: SizeAndAge, line: str | None, limit: int) -> int:
    """Score at most `limit` jobs of a line of another order, or of none; return their number."""
    statement = _of_line(session.get_bind().dialect.name, rank, is_scored=line is not None)
    return changed(session, statement, limit=limit, **({"of_line": line} if line else {}))


@lru_cache(maxsize=4)  # building it takes more CPU than sending it
def _of_line(dialect: str, rank: SizeAndAge, *, is_scored: bool) -> sa.Update:
    """Score jobs of a line, or without one, by how many of its user's wait before each."""
    is_of_it = jobs.c.line == sa.bindparam("of_line") if is_scored else jobs.c.line.is_(None)
    some = sa.select(jobs.c.id, _ahead(jobs, min(rank.burst * MOST_TIMES, _MOST_COUNTED)).label("ahead"))
    some = some.where(waits(jobs), is_of_it).order_by(*_BY_LINE).limit(sa.bindparam("limit", type_=sa.Integer))
    new = _locked(dialect, some)
    line = rank.mark + " " + sa.func.coalesce(jobs.c.lane, "") + " " + jobs.c.model
    values = {"line": line, "score": _rank(dialect, rank, new.c.ahead), "place": new.c.ahead}
    return sa.update(jobs).where(jobs.c.id == new.c.id).values(values)


@lru_cache(maxsize=4)
def _lower(dialect: str, rank: SizeAndAge) -> sa.Update:
    """Lower the scores of the first waiting jobs of users, where they are too high and the job among the next to start.

    A user's other jobs can wait until one of these has started: each write renews a dozen indexes.
    """
    first = _of_each(dialect, "users", jobs.c.user_id, _AGE, _most_ahead(rank)).subquery()
    too_much = seconds_of(rank, first, times_of(rank, first.c.place) - times_of(rank, first.c.ahead))
    nth = sa.func.row_number().over(partition_by=first.c.user_id, order_by=(first.c.score - too_much, first.c.id))
    found = sa.select(first.c.id, first.c.ahead, first.c.line, too_much.label("too_much"), nth.label("nth")).subquery()
    is_next = found.c.nth <= sa.bindparam("next", type_=sa.Integer)
    is_wrong = sa.and_(found.c.line.is_not(None), found.c.too_much > 0, is_next)
    some = sa.select(jobs.c.id, found.c.ahead).join_from(found, jobs, jobs.c.id == found.c.id).where(is_wrong)
    new = _locked(dialect, some)
    values = {"score": _rank(dialect, rank, new.c.ahead), "place": new.c.ahead}
    return sa.update(jobs).where(jobs.c.id == new.c.id).values(values)


def _locked(dialect: str, some: sa.Select[Any]) -> sa.FromClause:
    """Lock these jobs, to be updated.

    PostgreSQL may read a subquery once for each row of the table, and then locks other jobs each time, whatever the
    limit. sqlite3 counts no rows of an UPDATE that begins with WITH.
    """
    locked = some.with_for_update(of=jobs, skip_locked=True, key_share=True)
    # guard claims.batch: a claim scores all jobs of a long queue at once, and everybody waits for it
    return locked.cte("new") if dialect == "postgresql" else locked.subquery("new")


def _rank(dialect: str, rank: SizeAndAge, ahead: sa.ColumnElement[int]) -> sa.ColumnElement[float]:
    """Build the rank of a job behind `ahead` others of its user, in seconds: lower goes first."""
    time = jobs.c.created_at
    epoch: sa.ColumnElement[Any] = sa.cast(sa.extract("epoch", time), sa.Float)
    if dialect == "sqlite":  # whose own function counts whole seconds
        whole, part = sa.func.strftime("%s", sa.func.substr(time, 1, 19)), sa.func.substr(time, 21)
        epoch = (sa.cast(whole, sa.BigInteger) * 1_000_000 + sa.cast(part, sa.BigInteger)) / 1e6
    return epoch + seconds_of(rank, jobs, times_of(rank, ahead))


def _ahead(of: sa.FromClause, most: int) -> sa.ScalarSelect[int]:
    """Count the jobs of its user that wait before a job, up to `most`."""
    before = jobs.alias()
    is_older = sa.tuple_(before.c.created_at, before.c.id) < sa.tuple_(of.c.created_at, of.c.id)
    theirs = sa.select(before.c.id).where(waits(before), before.c.user_id == of.c.user_id, is_older)
    return sa.select(sa.func.count()).select_from(theirs.limit(most).correlate(of).subquery()).scalar_subquery()


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
    keys: str,
    column: sa.Column[Any],
    order: Sequence[Any],
    count: int | sa.BindParameter[int],
    *chosen: sa.ColumnElement[bool],
) -> sa.Select[Any]:
    """Select the first waiting jobs for each of the parameter `keys`, which are values of `column`."""
    if dialect == "sqlite":
        key = sa.func.json_each(sa.bindparam(keys, type_=sa.String())).table_valued("value")
    else:
        given = sa.bindparam(keys, type_=postgresql.ARRAY(sa.String()))
        key = sa.func.unnest(given).table_valued("value").render_derived()
    is_of_it = (waits(jobs), column == key.c.value, *chosen)
    if dialect == "sqlite":  # has no LATERAL, but reads what a function returns of another table's row
        rows: sa.Select[Any] = sa.select(sa.literal_column("jobs.rowid").label("row"))
        rows = rows.where(*is_of_it).order_by(*order).limit(count).correlate(key)
        listed = sa.select(sa.func.json_group_array(rows.subquery().c.row)).scalar_subquery()
        row, found = sa.func.json_each(listed).table_valued("key", "value"), jobs.alias("found")
        joined = key.join(row, sa.true()).join(found, sa.literal_column("found.rowid") == row.c.value)
        return sa.select(*(found.c[name] for name in _NEEDED), row.c.key.label("ahead")).select_from(joined)
    ahead = sa.func.row_number().over(order_by=order) - 1
    wanted = sa.select(*(jobs.c[name] for name in _NEEDED), ahead.label("ahead")).where(*is_of_it)
    each = wanted.order_by(*order).limit(count).correlate(key).lateral()
    return sa.select(each).select_from(key.join(each, sa.true()))


@lru_cache(maxsize=16)  # building it takes more CPU than reading its rows
def _window(
    dialect: str,
    most_ahead: int,
    full: frozenset[str],
    taken: tuple[str, ...],
    others: tuple[tuple[str, str], ...],
    served: Served | None,
) -> sa.Select[Any]:
    chosen = (checked(jobs.c.due_at <= Clock()), outside(full, taken, others, served))
    age, windows = ("created_at", "id"), []
    for name, order, most in (("best", ("score", *age), _FIRST), ("oldest", age, _OLDEST)):
        by, count = [jobs.c[part] for part in order], sa.bindparam(name, type_=sa.Integer)
        of_lines = _of_each(dialect, "lines", jobs.c.line, by, count, *chosen).subquery()
        told = (of_lines.c[name] for name in _NEEDED)
        windows.append(sa.select(*told).order_by(*(of_lines.c[part] for part in order)).limit(most).subquery())
    found = sa.union(*map(sa.select, windows)).subquery()
    told = (found.c[name] for name in _NEEDED[:6])
    counted = sa.case((found.c.place > 0, _ahead(found, most_ahead)), else_=0)
    return sa.select(*told, sa.literal(0), found.c.place, lane_of(served, found), counted)
