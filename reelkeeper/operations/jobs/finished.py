"""What a job that made its video adds to what is known: the usage of its day, and how long its model takes."""

from collections.abc import Mapping
from datetime import datetime

from sqlmodel import Session

from reelkeeper.model.money import Metric, Used
from reelkeeper.operations.jobs.followers import Ended
from reelkeeper.rules.jobs import estimate
from reelkeeper.store.billing import usage
from reelkeeper.store.core.engine import Clock, insert_into
from reelkeeper.store.jobs.controls import ESTIMATES, remembered
from reelkeeper.store.tables import controls


def count(session: Session, ended: Ended, at: datetime, took_seconds: float | None) -> None:
    """Count the job and its seconds, of the account and of its user."""
    day, seconds = at.date(), round(took_seconds or 0)
    used = [
        Used(day, metric, quantity, ended.model, user_id=user)
        for metric, quantity in ((Metric.JOBS, 1), (Metric.GENERATION_SECONDS, seconds))
        for user in ("", ended.user_id)
        if quantity
    ]
    usage.record(session, used, add=True)


def learn(session: Session, ended: Ended, load: float, took_seconds: float) -> None:
    """Remember by which factor the prior was wrong. The caller holds the deployment row: nobody else learns now."""
    state: Mapping[str, list[float]] = remembered(session, [ESTIMATES]).get(ESTIMATES, {})
    factors = estimate.learned(state.get(ended.model, ()), estimate.factor(ended.complexity, load, took_seconds))
    new = {"state": {**state, ended.model: factors}, "updated_at": Clock()}
    session.execute(
        insert_into(session, controls)
        .values(name=ESTIMATES, **new)
        .on_conflict_do_update(index_elements=["name"], set_=new)
    )
