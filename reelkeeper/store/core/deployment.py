"""Store the deployment's identity, its freeze, the bucket's contract, and when each flow last succeeded.

Every change locks the deployment row first. So a confirmed freeze or hold is seen by every change that commits after
it; and the audit record, whose last digest is in the same row, keeps that order.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState
from reelkeeper.store.core import controls, policies
from reelkeeper.store.core.audit import ELSEWHERE, Event, append
from reelkeeper.store.core.engine import Clock, changed, insert_into, now, reading
from reelkeeper.store.tables import blobs, deployment, heartbeats

RESTORE: Final = "db restore"  # who stopped the changes of one that was restored, until it is adopted
_STATE = sa.select(deployment.c.frozen_at, deployment.c.frozen_by, deployment.c.frozen_reason, *policies.VERSION)
_LOCKED = _STATE.with_for_update()


class Stopped(NamedTuple):
    """When, by whom and why all changes were stopped."""

    at: datetime
    by: str
    reason: str

    @property
    def is_moved(self) -> bool:
        """Whether the store was moved, or is arriving: then nothing thaws it."""
        return self.by in ELSEWHERE


def lock(session: Session) -> None:
    """Lock the deployment row: later changes wait for it until this transaction ends.

    Each change begins with it, or with `require_permission`: one that has locked other rows before could deadlock.
    """
    session.execute(sa.select(deployment.c.id).with_for_update())


def identity(session: Session) -> str:
    """Read the id that the bucket's identity object must hold."""
    deployment_id: str = session.execute(sa.select(deployment.c.id)).scalar_one()
    return deployment_id


def owner(engine: Engine) -> str | None:
    """Read the id of a store of any version; None for a database that holds no store."""
    if not sa.inspect(engine).has_table("deployment"):
        return None
    with reading(engine) as session:
        return session.execute(sa.select(deployment.c.id)).scalar()


def knows_objects(session: Session) -> bool:
    """Check whether the catalogue has ever had an object: then its bucket has an identity object."""
    return session.execute(sa.select(blobs.c.id).limit(1)).scalar() is not None


def any_key(session: Session) -> str | None:
    """Return the key of any live object; None where there is none."""
    return session.execute(sa.select(blobs.c.key).where(blobs.c.state == BlobState.LIVE).limit(1)).scalar()


def made_at(session: Session) -> datetime:
    """Read when the store was created."""
    made: datetime = session.execute(sa.select(deployment.c.created_at)).scalar_one()
    return made


def stopped(session: Session, *, locked: bool = False) -> Stopped | None:
    """Read when, by whom and why changes were stopped; None while they are allowed. `locked` locks the row.

    The transaction then also knows which policies are in force.
    """
    row = session.execute(_LOCKED if locked else _STATE).one()
    policies.note(session, row.policy_version, row.policy_digest)
    return Stopped(*row[:3]) if row.frozen_at else None


def stop(session: Session, *, by: str, reason: str) -> bool:
    """Stop all changes; False, and the first reason stays, where they are stopped already."""
    allowed = sa.update(deployment).where(deployment.c.frozen_at.is_(None))
    return changed(session, allowed.values(frozen_at=now(session), frozen_by=by, frozen_reason=reason)) > 0


def let_go_on(session: Session) -> str | None:
    """Allow changes again; return the reason why they were stopped, or None if they were not."""
    stopping = sa.select(deployment.c.frozen_reason).where(deployment.c.frozen_at.is_not(None))
    reason: str | None = session.execute(stopping.with_for_update()).scalar()
    if reason is not None:
        session.execute(sa.update(deployment).values(frozen_at=None, frozen_by=None, frozen_reason=None))
    return reason


_TRIAL: Final = "trial"


class Standing(NamedTuple):
    """The place of the bucket that this store tries out, and of the one where `up --live` was confirmed, if any."""

    place: str | None = None
    live: str | None = None

    def only_reads(self, place: str) -> bool:
        """Check whether nothing may be changed at a place: `up` knows this store, and went live elsewhere or nowhere.

        A store that `up` has never run may change its bucket.
        """
        # guard trial.address: a bucket at another address than the confirmed one is changed by all but the schedules
        return self != Standing() and self.live != place

    def elsewhere(self, place: str) -> str:
        """Say that this store is on trial at another place; "" where it is not, or is live already."""
        if self.live or self.place in {None, place}:
            return ""
        return (
            f"the settings name {place}, but this store tries out {self.place}, and has records of its objects: "
            "nothing was changed. Set REELKEEPER_BUCKET and REELKEEPER_PREFIX to those, or another "
            "REELKEEPER_STATE_DIR or REELKEEPER_DATABASE_URL"
        )


def standing(session: Session) -> Standing:
    """Return where this store is on trial, and where it is live; nowhere for one that `up` has never run."""
    state = controls.remembered(session, [_TRIAL]).get(_TRIAL, {})
    return Standing(state.get("place"), state.get("live"))


def trial(session: Session) -> str | None:
    """Return the place of the bucket that this store only reads; None where it is not on trial."""
    return standing(session).place


def trial_since(session: Session) -> datetime | None:
    """Return when the trial began; None where this store is not on trial."""
    kept = controls.kept(session, _TRIAL)
    return kept.updated_at if kept and kept.state.get("place") else None


def set_standing(session: Session, new: Standing) -> None:
    """Record where this store is on trial, and where it is live."""
    if standing(session) != new:
        controls.write(session, _TRIAL, new._asdict())


_DEPLOYED: Final = "deployed"


def deployed(session: Session) -> frozenset[str] | None:
    """Return the flows that are deployed at Prefect's server; None where nobody has looked yet."""
    state = controls.remembered(session, [_DEPLOYED]).get(_DEPLOYED)
    return frozenset(state["flows"]) if state else None


def set_deployed(session: Session, flows: Collection[str]) -> None:
    """Record the flows that are deployed."""
    if deployed(session) != frozenset(flows):
        controls.write(session, _DEPLOYED, {"flows": sorted(flows)})


_CONTRACT: Final = "contract"


class Tried(NamedTuple):
    """The outcome of the last run of the contract's checks."""

    at: datetime
    endpoint_url: str
    bucket: str
    passed: frozenset[str]  # names of checks
    failed: frozenset[str]


def record_contract(
    session: Session, endpoint_url: str, bucket: str, passed: Collection[str], failed: Collection[str], *, run_id: str
) -> None:
    """Record the outcome of the contract's checks, in place of the last one and in the audit record."""
    state = {"endpoint": endpoint_url, "bucket": bucket, "passed": sorted(passed), "failed": sorted(failed)}
    controls.write(session, _CONTRACT, state)
    append(session, [Event("contract", run_id, detail=state)])


def contract_passed(session: Session, endpoint_url: str, bucket: str, checks: Collection[str]) -> bool:
    """Check whether all of `checks` passed in the last run, against this bucket."""
    tried = contract_at(session, endpoint_url, bucket)
    return tried is not None and tried.passed >= set(checks)


def contract_failed(session: Session, endpoint_url: str, bucket: str) -> frozenset[str]:
    """Return the checks that failed in the last run, if that was against this bucket."""
    tried = contract_at(session, endpoint_url, bucket)
    return tried.failed if tried else frozenset()


def contract_at(session: Session, endpoint_url: str, bucket: str) -> Tried | None:
    """Read the outcome of the last run, if that was against this bucket."""
    tried = last_contract(session)
    return tried if tried and (tried.endpoint_url, tried.bucket) == (endpoint_url, bucket) else None


def last_contract(session: Session) -> Tried | None:
    """Read the outcome of the last run; None if there was none."""
    kept = controls.kept(session, _CONTRACT)
    if kept is None:
        return None
    state, at = kept
    return Tried(at, state["endpoint"], state["bucket"], frozenset(state["passed"]), frozenset(state["failed"]))


def last_failed(session: Session) -> frozenset[str]:
    """Return the checks that failed in the last run, against whatever bucket; none if there was none."""
    tried = last_contract(session)
    return tried.failed if tried else frozenset()


class Beat(NamedTuple):
    """A flow's last success, with its period and grace at that time."""

    flow: str
    last_ok_at: datetime
    period_seconds: int
    grace_seconds: int
    run_id: str
    run_seconds: float | None


def record_beat(
    session: Session, flow: str, run_id: str, period_seconds: int, grace_seconds: int, run_seconds: float | None = None
) -> None:
    """Record that `flow` has just succeeded, and how long it took."""
    insert = insert_into(session, heartbeats).values(
        flow=flow,
        last_ok_at=Clock(),
        period_seconds=period_seconds,
        grace_seconds=grace_seconds,
        run_id=run_id,
        run_seconds=run_seconds,
    )
    new = {name: insert.excluded[name] for name in Beat._fields if name != "flow"}
    session.execute(insert.on_conflict_do_update(index_elements=["flow"], set_=new))


def beats(session: Session) -> dict[str, Beat]:
    """Return each flow's last success, by flow."""
    rows = session.execute(sa.select(*(heartbeats.c[name] for name in Beat._fields)))
    return {row.flow: Beat(*row) for row in rows}
