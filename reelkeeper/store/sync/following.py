"""How far the bucket's events have been followed: one row of `controls`, and figures from the audit record."""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.adoption import BY_CSV, AdoptionVerdict
from reelkeeper.store.core import controls as states
from reelkeeper.store.core.controls import Kept
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.tables import audit_events, controls, orphans

SERVICE_DELETE: Final = "service_delete"  # of the audit: the service has deleted an object itself
RETAINED_SECONDS: Final = 4 * 86_400.0  # for which the queue keeps messages: after a longer pause, some are lost
_NAME: Final = "bucket_events"
_DAY_SECONDS: Final = 86_400.0


def kept(session: Session) -> Kept | None:
    """Read the state as last written; None where no events were ever followed."""
    return states.kept(session, _NAME)


def recent(session: Session) -> dict[str, Any] | None:
    """Read the state, unless nothing has followed for longer than a queue keeps messages."""
    fresh = sa.and_(controls.c.name == _NAME, controls.c.updated_at > Clock(-RETAINED_SECONDS))
    return session.execute(sa.select(controls.c.state).where(fresh)).scalar_one_or_none()


def write(session: Session, state: Mapping[str, Any]) -> None:
    """Write how far events have been followed, as of now."""
    states.write(session, _NAME, state)


def count_deleted(session: Session) -> int:
    """Count the objects that the service was seen to delete in the last 24 hours."""
    recent = sa.and_(audit_events.c.event == SERVICE_DELETE, audit_events.c.at > Clock(-_DAY_SECONDS))
    return int(session.execute(sa.select(sa.func.count()).where(recent)).scalar_one())


def adopted_files(session: Session, runs: str) -> dict[str, int]:
    """Count the files of each video that runs with this id prefix adopted in the last 24 hours, noted ones included."""
    recent = sa.and_(
        audit_events.c.event == "adopt",
        audit_events.c.at > Clock(-_DAY_SECONDS),
        audit_events.c.run_id.startswith(runs, autoescape=True),
    )
    adopted = dict.fromkeys(session.execute(sa.select(audit_events.c.video_id).where(recent)).scalars(), 1)
    further = session.execute(
        sa.select(orphans.c.video_id, sa.func.count())
        .where(
            orphans.c.verdict.in_([AdoptionVerdict.ANOTHER_FILE, AdoptionVerdict.REFUSED]),
            orphans.c.pattern > BY_CSV,
            orphans.c.video_id.in_(sa.select(audit_events.c.video_id).where(recent)),
        )
        .group_by(orphans.c.video_id)
    )
    return adopted | {row.video_id: 1 + row[1] for row in further}
