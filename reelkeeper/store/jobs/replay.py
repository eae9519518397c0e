"""Read past requests and jobs for simulations, and export them as CSV, without prompts, names or ids."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import count
from typing import Any, Final, TextIO, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import InputRefused
from reelkeeper.model.jobs import JobState, RecordedJob, RecordedRequest
from reelkeeper.store.tables import blobs, jobs, videos
from reelkeeper.store.videos.csv_columns import Columns, Problem, moment, whole_lines

_SHOWN: Final = 10
_BATCH: Final = 1_000  # rows read at once
_MAX_VALUE: Final = 10**15  # of any figure; a larger one is a mistake
_MADE: Final = sa.and_(jobs.c.state == JobState.SUCCEEDED, jobs.c.processing_seconds > 0, jobs.c.leader_id.is_(None))
_Row = TypeVar("_Row", RecordedJob, RecordedRequest)


def jobs_made(session: Session, limit: int) -> list[RecordedJob]:
    """Read the last `limit` jobs that a worker made, in the order in which they were requested."""
    columns = (
        jobs.c.created_at,
        jobs.c.user_id,
        jobs.c.tier,
        jobs.c.model,
        jobs.c.complexity,
        jobs.c.estimate_seconds,
        jobs.c.processing_seconds,
        sa.func.coalesce(sa.func.length(jobs.c.request["prompt"].as_string()), 0),
    )
    rows = session.execute(sa.select(*columns).where(_MADE).order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit))
    names = _Numbers("u")
    return [RecordedJob(*row)._replace(user=names[row.user_id]) for row in reversed(rows.all())]


def repeats(session: Session, since: datetime) -> tuple[int, int]:
    """Count the jobs made since then that repeated an earlier request, and sum their cost to us.

    Requests are equal if their cache key is: of one user, unless the user shares. A cost is the provider's, or
    else the expected one.
    """
    cost = sa.func.coalesce(jobs.c.cost_microusd, jobs.c.quoted_cost_microusd, 0)
    place = sa.func.row_number().over(partition_by=jobs.c.cache_key, order_by=(jobs.c.finished_at, jobs.c.id))
    made = (
        sa.select(jobs.c.finished_at, cost.label("cost"), place.label("place"))
        .where(jobs.c.state == JobState.SUCCEEDED, jobs.c.processing_seconds > 0)
        .subquery()
    )
    count, microusd = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(made.c.cost), 0)).where(
            made.c.place > 1, made.c.finished_at >= since
        )
    ).one()
    return int(count), int(microusd)


def requests_made(session: Session, since: datetime) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Stream the requests that became a video since then, each with the provider that made it."""
    query = sa.select(jobs.c.request, jobs.c.provider).where(_MADE, jobs.c.finished_at >= since)
    yield from (tuple(row) for row in session.execute(query.execution_options(yield_per=_BATCH)))


def requests_answered(session: Session, limit: int) -> list[RecordedRequest]:
    """Read the last requests that got a video, new or from the cache, in the order in which they came.

    A size is that of the video's present bytes, or else the reserved one; a cost is the actual or else the
    expected one. A request is left out where either is unknown for all requests with its key.
    """
    columns = (
        jobs.c.created_at,
        jobs.c.cache_key,
        sa.func.coalesce(blobs.c.size_bytes, jobs.c.reserved_bytes),
        sa.func.coalesce(sa.func.nullif(jobs.c.cost_microusd, 0), jobs.c.quoted_cost_microusd, jobs.c.price_microusd),
    )
    answered = sa.select(*columns).select_from(
        jobs.outerjoin(videos, videos.c.id == jobs.c.video_id).outerjoin(blobs, blobs.c.id == videos.c.blob_id)
    )
    chosen = answered.where(jobs.c.state == JobState.SUCCEEDED)
    rows = session.execute(chosen.order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit)).all()
    sizes, costs, names = Counter[str](), Counter[str](), _Numbers("k")
    for _, key, size_bytes, cost_microusd in rows:
        sizes[key], costs[key] = max(sizes[key], size_bytes), max(costs[key], cost_microusd)
    known = [(at, key) for at, key, *_ in reversed(rows) if sizes[key] and costs[key]]
    return [RecordedRequest(at, names[key], sizes[key], costs[key]) for at, key in known]


def write(rows: Iterable[_Row], kind: type[_Row], file: TextIO) -> None:
    """Write rows as CSV that `read_jobs` or `read_requests` reads."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(kind._fields)
    for row in rows:
        writer.writerow([value.isoformat() if isinstance(value, datetime) else value for value in row])


def read_jobs(lines: Iterable[str]) -> list[RecordedJob]:
    """Read jobs from CSV, in the order of time. Raises InputRefused, naming line, column and value of each error."""
    return sorted((RecordedJob(**values) for values in _read(lines, _JOBS)), key=lambda job: job.submitted_at)


def read_requests(lines: Iterable[str]) -> list[RecordedRequest]:
    """Read requests from CSV. Raises InputRefused as `read_jobs` does."""
    return sorted((RecordedRequest(**values) for values in _read(lines, _REQUESTS)), key=lambda request: request.at)


def _number(least: float) -> Callable[[str], float]:
    def take(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= _MAX_VALUE:  # false for NaN, too
            raise ValueError(f"is not a number from {least:g} to {_MAX_VALUE:g}")
        return value

    return take


def _integer(least: int) -> Callable[[str], int]:
    def take(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= _MAX_VALUE):
            raise ValueError(f"is not a whole number from {least} to {_MAX_VALUE:g}")
        return int(text)

    return take


def _at(text: str) -> datetime:
    at = moment(text)
    if at is None:
        raise ValueError("is not an ISO 8601 time")
    return at


def _word(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


_JOBS: Final[Columns] = {
    "submitted_at": _at,
    "user": _word,
    "tier": lambda text: text or None,
    "model": _word,
    "complexity": _number(0),
    "estimate_seconds": _number(0),
    "seconds": _number(0.001),
    "prompt_characters": _integer(0),
}
_REQUESTS: Final[Columns] = {"at": _at, "key": _word, "size_bytes": _integer(1), "cost_microusd": _integer(1)}


class _Numbers(dict[str, str]):
    """Replaces ids with names, numbered in the order of their appearance."""

    def __init__(self, outgoing: str) -> None:
        super().__init__()
        self._outgoing, self._next = outgoing, count(1)

    def __missing__(self, key: str) -> str:
        return self.setdefault(key, f"{self._outgoing}{next(self._next)}")


def _read(lines: Iterable[str], columns: Columns) -> Iterator[dict[str, Any]]:
    read = list(whole_lines(lines, columns))
    problems = [item for item in read if isinstance(item, Problem)]
    if problems:
        more = f"; and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        raise InputRefused(f"{'; '.join(map(str, problems[:_SHOWN]))}{more}. Nothing was simulated")
    return (item.values for item in read if not isinstance(item, Problem))
