"""Keep running totals of each day's spend, and sum the expected cost of the jobs in flight."""

from datetime import date, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import SoFar
from reelkeeper.store.billing import job_totals
from reelkeeper.store.core.engine import insert_into
from reelkeeper.store.tables import spend_days

_DAY: Final = spend_days.c.charged_microusd + spend_days.c.generated_microusd


def so_far(session: Session, as_of: datetime) -> SoFar:
    """Read the cost of the day and the month of `as_of`, and of jobs in flight, from at most 31 rows and a total."""
    today = as_of.date()
    of_today = sa.case((spend_days.c.day == today, _DAY), else_=0)
    month, day = session.execute(
        sa.select(sa.func.coalesce(sa.func.sum(_DAY), 0), sa.func.coalesce(sa.func.sum(of_today), 0)).where(
            spend_days.c.day.between(today.replace(day=1), today)
        )
    ).one()
    flying = job_totals.flying(session, [job_totals.ALL]).get(job_totals.ALL)
    return SoFar(int(day), int(month), flying.microusd if flying else 0)


def add_generated(session: Session, day: date, cost_microusd: int) -> None:
    """Add the cost of a job or of an attempt."""
    insert = insert_into(session, spend_days).values(day=day, charged_microusd=0, generated_microusd=cost_microusd)
    more = {"generated_microusd": spend_days.c.generated_microusd + cost_microusd}
    session.execute(insert.on_conflict_do_update(index_elements=["day"], set_=more))


def note_charged(session: Session, day: date, cost_microusd: int) -> None:
    """Record the charges of a day, without those for generation, in place of what was recorded before."""
    insert = insert_into(session, spend_days).values(day=day, charged_microusd=cost_microusd, generated_microusd=0)
    new = {"charged_microusd": cost_microusd}
    session.execute(insert.on_conflict_do_update(index_elements=["day"], set_=new))
