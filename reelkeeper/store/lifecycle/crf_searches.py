"""Store the results and costs of CRF searches: one row each, refusals included."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import CrfSearch, LessByDay, SearchTotals
from reelkeeper.store.core.engine import now
from reelkeeper.store.tables import blobs, crf_searches, jobs, videos

_RECALLED = 300  # searches, the newest: encoders and prompts change
_WEIGHED = 1_000
_FIELDS = [crf_searches.c[name] for name in CrfSearch.__dataclass_fields__]


def add(
    session: Session, search: CrfSearch, *, video_id: str, run_id: str, model: str | None, machine: str | None = None
) -> None:
    """Record the result of a search by a machine."""
    about = {"video_id": video_id, "run_id": run_id, "model": model, "machine": machine, "at": now(session)}
    session.execute(sa.insert(crf_searches).values(asdict(search) | about))


class Recalled(NamedTuple):
    """An earlier search, with the model that made the clip and the machine that searched, if they are known."""

    model: str | None
    machine: str | None
    search: CrfSearch


def recall(session: Session, encoder: str) -> list[Recalled]:
    """List the newest searches with this version of an encoder."""
    rows = session.execute(
        sa.select(crf_searches.c.model, crf_searches.c.machine, *_FIELDS)
        .where(crf_searches.c.encoder == encoder)
        .order_by(crf_searches.c.id.desc())
        .limit(_RECALLED)
    )
    return [Recalled(model, machine, CrfSearch(*fields)) for model, machine, *fields in rows]


def by_model(session: Session) -> list[tuple[str | None, int, SearchTotals]]:
    """Sum all searches by the model that made the clip (None: not known) and the pixels of its frames."""
    of = crf_searches.c
    rows = session.execute(sa.select(of.model, of.pixels, *_sums(of)).group_by(of.model, of.pixels))
    return [(model, pixels, _totals(*figures)) for model, pixels, *figures in rows]


def by_machine(session: Session, first: datetime, until: datetime) -> list[tuple[str, SearchTotals]]:
    """Sum the searches of a time by the machine that made them, without those from before machines were recorded."""
    of = crf_searches.c
    rows = session.execute(
        sa.select(of.machine, *_sums(of))
        .where(of.at >= first, of.at < until, of.machine.is_not(None))
        .group_by(of.machine)
        .order_by(of.machine)
    )
    return [(machine, _totals(*figures)) for machine, *figures in rows]


def less_by_day(session: Session) -> list[LessByDay]:
    """Sum the bytes that accepted searches saved, by model, pixels, day, and the day on which the saving ended.

    It ends when the video is deleted, or the service overwrites it, or the compression is undone.
    """
    of, every = crf_searches.c, blobs.alias()
    ended_at = sa.case(
        (videos.c.created_at > of.at, videos.c.created_at),  # that of the bytes that overwrote it
        # guard savings.undone: bytes that are stored as before a compression count as saved until the video is deleted
        (blobs.c.size_bytes >= of.source_bytes, sa.func.coalesce(videos.c.refused_at, of.at)),
        else_=videos.c.retired_at,
    )
    began, ended = sa.func.date(of.at, type_=sa.Date()), sa.func.date(ended_at, type_=sa.Date())
    # guard savings.service_grace: bytes count as saved for the days in which the service's original is still stored
    is_ours = ~sa.exists().where(every.c.video_id == of.video_id, ~every.c.is_ours)
    groups = (of.model, of.pixels, began, ended, is_ours)
    rows = session.execute(
        sa.select(*groups[:-1], sa.func.sum(of.source_bytes - of.kept_bytes), is_ours)
        .select_from(crf_searches.outerjoin(videos, videos.c.id == of.video_id))
        .outerjoin(blobs, blobs.c.id == videos.c.blob_id)
        .where(of.outcome == "accepted")
        .group_by(*groups)
    )
    return [
        LessByDay(model, pixels, day, went, int(size_bytes), bool(is_ours))
        for model, pixels, day, went, size_bytes, is_ours in rows
    ]


def totals(session: Session, *, encoder: str | None = None, run_id: str | None = None) -> SearchTotals:
    """Sum the newest searches with an encoder, those of a run, or all."""
    wanted = {crf_searches.c.encoder: encoder, crf_searches.c.run_id: run_id}
    chosen = sa.select(crf_searches).where(*(column == value for column, value in wanted.items() if value is not None))
    if encoder is not None:
        chosen = chosen.order_by(crf_searches.c.id.desc()).limit(_WEIGHED)
    return _totals(*session.execute(sa.select(*_sums(chosen.subquery().c))).one())


def _sums(of: sa.ColumnCollection[str, sa.ColumnElement[Any]]) -> list[sa.ColumnElement[Any]]:
    figures = (of.source_bytes, of.kept_bytes, of.cpu_seconds, of.gain_microusd, of.cost_microusd)
    accepted = sa.func.sum(sa.case((of.outcome == "accepted", 1), else_=0))
    return [sa.func.count(), accepted, *map(sa.func.sum, figures)]


def _totals(*figures: float | None) -> SearchTotals:
    count, accepted, source, kept, cpu_seconds, gain, cost = (figure or 0 for figure in figures)
    return SearchTotals(int(count), int(accepted), int(source), int(kept), float(cpu_seconds), int(gain), int(cost))


def model_of(session: Session, video_id: str) -> str | None:
    """Read the model that made a video; None where no job is known to have made it."""
    made = sa.select(jobs.c.model).where(jobs.c.video_id == video_id, jobs.c.leader_id.is_(None)).limit(1)
    found: str | None = session.execute(made).scalar()
    return found
