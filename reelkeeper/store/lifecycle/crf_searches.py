"""What searches for a CRF have met and cost: one row each, also for those that ended in a refusal."""

from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import CrfSearch, SearchTotals
from reelkeeper.store.core.engine import now
from reelkeeper.store.tables import crf_searches, jobs

_RECALLED = 300  # searches, the newest: encoders and prompts change
_WEIGHED = 1_000
_FIELDS = [crf_searches.c[name] for name in CrfSearch.__dataclass_fields__]


def add(session: Session, search: CrfSearch, *, video_id: str, run_id: str, model: str | None) -> None:
    """Write down what a search has met."""
    row = asdict(search) | {"video_id": video_id, "run_id": run_id, "model": model, "at": now(session)}
    session.execute(sa.insert(crf_searches).values(row))


def recall(session: Session, encoder: str) -> list[tuple[str | None, CrfSearch]]:
    """List the newest searches with an encoder of this version, each with the model that made the clip."""
    rows = session.execute(
        sa.select(crf_searches.c.model, *_FIELDS)
        .where(crf_searches.c.encoder == encoder)
        .order_by(crf_searches.c.id.desc())
        .limit(_RECALLED)
    )
    return [(model, CrfSearch(*fields)) for model, *fields in rows]


def totals(session: Session, *, encoder: str | None = None, run_id: str | None = None) -> SearchTotals:
    """Add up the newest searches with an encoder, those of a run, or all there are."""
    wanted = {crf_searches.c.encoder: encoder, crf_searches.c.run_id: run_id}
    chosen = sa.select(crf_searches).where(*(column == value for column, value in wanted.items() if value is not None))
    if encoder is not None:
        chosen = chosen.order_by(crf_searches.c.id.desc()).limit(_WEIGHED)
    of = chosen.subquery().c
    row = session.execute(
        sa.select(
            sa.func.count(),
            sa.func.sum(sa.case((of.outcome == "accepted", 1), else_=0)),
            sa.func.sum(of.source_bytes),
            sa.func.sum(of.kept_bytes),
            sa.func.sum(of.cpu_seconds),
            sa.func.sum(of.gain_microusd),
            sa.func.sum(of.cost_microusd),
        )
    ).one()
    count, accepted, source, kept, cpu_seconds, gain, cost = (total or 0 for total in row)
    return SearchTotals(int(count), int(accepted), int(source), int(kept), float(cpu_seconds), int(gain), int(cost))


def model_of(session: Session, video_id: str) -> str | None:
    """Name the model that made a video; None where no job is known to have made it."""
    made = sa.select(jobs.c.model).where(jobs.c.video_id == video_id, jobs.c.leader_id.is_(None)).limit(1)
    found: str | None = session.execute(made).scalar()
    return found
