"""What purges have freed, by day and by why."""

from collections import Counter
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import Freed
from reelkeeper.store.tables import blobs, plans, verdicts


def by_day(session: Session, until: datetime) -> list[Freed]:
    """Add up what was purged before `until`, by the UTC day of the run and the rule that let it go.

    Of bytes that smaller ones had replaced, only the difference counts; where several attempts were made, against the
    largest of them.
    """
    after = (
        sa.select(sa.func.max(blobs.c.size_bytes))
        .where(blobs.c.video_id == verdicts.c.video_id, blobs.c.generation == verdicts.c.generation + 1)
        .scalar_subquery()
    )
    net = sa.case(
        (verdicts.c.rule == "replaced", verdicts.c.size_bytes - sa.func.coalesce(after, 0)), else_=verdicts.c.size_bytes
    )
    rows = session.execute(
        sa.select(plans.c.applied_at, verdicts.c.rule, sa.func.sum(net))
        .select_from(verdicts.join(plans, plans.c.id == verdicts.c.plan_id))
        .where(verdicts.c.outcome == "purged", plans.c.applied_at < until)
        .group_by(plans.c.id, plans.c.applied_at, verdicts.c.rule)
    )
    totals: Counter[tuple[date, str]] = Counter()
    for applied_at, rule, size_bytes in rows:
        totals[applied_at.date(), rule] += int(size_bytes)
    return [Freed(day, rule, size_bytes) for (day, rule), size_bytes in sorted(totals.items())]
