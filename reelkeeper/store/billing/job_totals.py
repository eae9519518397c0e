"""Keep running totals of the past and expected cost of each scope's jobs, so that admissions need not sum jobs.

The scope COMPRESSING has a day's cost of compression; ALL has all jobs in flight.

Transactions that admit or end a job hold the deployment row. The cost of a failed attempt is added without it; all
write in the same order, to avoid deadlocks.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from reelkeeper.model.money import JobTotal
from reelkeeper.store.core.engine import insert_into
from reelkeeper.store.tables import job_totals

COMPRESSING: Final = "compressing"
ALL: Final = "all:jobs"
IN_FLIGHT: Final = ""  # the period of jobs admitted and not ended
_ADDED: Final = ("microusd", "refusals", "jobs", "milliseconds")
_FIGURES: Final = tuple(job_totals.c[name] for name in JobTotal._fields)


def _add(insert: postgresql.Insert | sqlite.Insert) -> sa.Insert:
    more = {name: job_totals.c[name] + insert.excluded[name] for name in _ADDED}
    return insert.on_conflict_do_update(index_elements=["period", "scope"], set_=more)


# built once: building a statement costs more than sending it
_ADD: Final = {"sqlite": _add(sqlite.insert(job_totals)), "postgresql": _add(postgresql.insert(job_totals))}


def add(session: Session, scopes: Sequence[str], by_period: Mapping[str, int], *, refusals: int = 0) -> None:
    """Add micro-dollars by period, and refusals, to the totals of each scope."""
    more = {"refusals": refusals, "jobs": 0, "milliseconds": 0}
    rows = [
        {"scope": scope, "period": period, "microusd": microusd, **more}
        for period, microusd in sorted(by_period.items())
        for scope in sorted(scopes)
        if microusd or refusals
    ]
    if rows:
        session.execute(_ADD[session.get_bind().dialect.name], rows)


class Flying(NamedTuple):
    """The expected cost in micro-dollars, the number, and the expected milliseconds of jobs in flight."""

    microusd: int
    jobs: int
    milliseconds: int


_FLYING: Final = sa.select(job_totals.c.scope, *(job_totals.c[name] for name in Flying._fields)).where(
    job_totals.c.period == IN_FLIGHT, job_totals.c.scope.in_(sa.bindparam("scopes", expanding=True))
)


def fly(session: Session, scopes: Iterable[str], more: Flying) -> None:
    """Add jobs in flight to the totals of each scope, or take them away."""
    rows = [{"scope": scope, "period": IN_FLIGHT, "refusals": 0, **more._asdict()} for scope in sorted(scopes)]
    session.execute(_ADD[session.get_bind().dialect.name], rows)


def flying(session: Session, scopes: Collection[str]) -> dict[str, Flying]:
    """Read the jobs in flight of these scopes; those that never had one are left out."""
    return {row[0]: Flying(*row[1:]) for row in session.execute(_FLYING, {"scopes": list(scopes)})}


def add_within(session: Session, scope: str, period: str, microusd: int, most_microusd: int) -> bool:
    """Add to a total unless it would exceed `most_microusd`, even with concurrent callers; return whether it did."""
    row = {"scope": scope, "period": period, "microusd": microusd, "refusals": 0}
    insert, total = insert_into(session, job_totals).values(row), job_totals.c.microusd
    more = insert.on_conflict_do_update(
        index_elements=["period", "scope"],
        set_={"microusd": total + microusd},
        where=total + microusd <= most_microusd,
    )
    return microusd <= most_microusd and session.execute(more.returning(total)).scalar() is not None


def of_scopes(session: Session, scopes: Collection[str], periods: Collection[str]) -> list[JobTotal]:
    """Read the totals of these scopes in these periods; missing ones are left out."""
    wanted = sa.and_(job_totals.c.period.in_(periods), job_totals.c.scope.in_(scopes))
    return [JobTotal(*row) for row in session.execute(sa.select(*_FIGURES).where(wanted))]


def of_kind(session: Session, kind: str, periods: Collection[str], least_microusd: int) -> list[JobTotal]:
    """Read the totals of a kind of scope in these periods, for scopes that reach `least_microusd` or had a refusal."""
    in_one = sa.and_(job_totals.c.period.in_(periods), job_totals.c.scope.startswith(f"{kind}:", autoescape=True))
    summed = sa.select(job_totals.c.scope).where(in_one).group_by(job_totals.c.scope)
    much = sa.or_(sa.func.sum(job_totals.c.microusd) >= least_microusd, sa.func.sum(job_totals.c.refusals) > 0)
    wanted = sa.and_(in_one, job_totals.c.scope.in_(summed.having(much)))
    return [JobTotal(*row) for row in session.execute(sa.select(*_FIGURES).where(wanted))]


def refused(session: Session, periods: Collection[str]) -> list[JobTotal]:
    """Read the totals of these periods that have a refusal."""
    wanted = sa.and_(job_totals.c.period.in_(periods), job_totals.c.refusals > 0)
    return [JobTotal(*row) for row in session.execute(sa.select(*_FIGURES).where(wanted))]


def forget_refusals(session: Session, scope: str, period: str) -> None:
    """Count the refusals of a scope in a period from zero."""
    row = sa.and_(job_totals.c.scope == scope, job_totals.c.period == period)
    session.execute(sa.update(job_totals).where(row).values(refusals=0))


def by_day(session: Session, kinds: Collection[str], first: date, last: date) -> list[JobTotal]:
    """Read the totals of the days from `first` to `last` of all scopes of these kinds, such as `provider`."""
    days = sa.and_(
        job_totals.c.period.between(f"{first}", f"{last}"), sa.func.length(job_totals.c.period) == len(f"{first}")
    )
    wanted = sa.or_(*(job_totals.c.scope.startswith(f"{kind}:", autoescape=True) for kind in kinds))
    return [JobTotal(*row) for row in session.execute(sa.select(*_FIGURES).where(days, wanted))]


def write_in_flight(session: Session, scope: str, figure: str, counted: int) -> None:
    """Write the recounted micro-dollars, number or milliseconds of a scope's jobs in flight."""
    row: dict[str, Any] = {"scope": scope, "period": IN_FLIGHT, "microusd": 0, "refusals": 0, figure: counted}
    insert = insert_into(session, job_totals).values(row)
    session.execute(insert.on_conflict_do_update(index_elements=["period", "scope"], set_={figure: counted}))
