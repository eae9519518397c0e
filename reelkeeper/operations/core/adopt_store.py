"""Go on with a store that is behind its bucket, once a person has seen what it does not know: `reelkeeper db adopt`.

Graces and notices start anew, and what the bucket tells was restored or held is held for 30 days: nothing is purged
before somebody could look. From then on the other copies of the store are behind.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import uuid4

from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import ObjectMissing
from reelkeeper.model import Counts
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.epochs import NAME, digests
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.store.core import deployment
from reelkeeper.store.core import epochs as rows
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.epochs import ADOPTED, BEHIND, HOME, RESTORED, Epoch
from reelkeeper.store.lifecycle import notices, purges
from reelkeeper.store.videos import holds
from reelkeeper.store.videos.holds import HoldTerms

HOLD_DAYS: Final = 30
_READERS: Final = 8


class Told(NamedTuple):
    """A restore or hold that the store does not know. `unknown`: how many subjects are not in its catalogue."""

    kind: str
    number: int
    videos: tuple[str, ...]
    users: tuple[str, ...]
    unknown: int
    until: datetime | None
    is_legal: bool


class Behind(NamedTuple):
    """The state before an adoption: why the store is behind, unknown changes in the bucket, and what may be purged."""

    why: str | None
    told: tuple[Told, ...]
    foreign: tuple[Epoch, ...]
    due: Counts


def look(workspace: Workspace) -> Behind:
    """Find what the bucket tells that this store does not know. Changes nothing."""
    why = epochs.why_behind(workspace.engine, workspace.bucket)
    names = [name for name in workspace.bucket.epochs() if NAME.fullmatch(name)]
    with reading(workspace.engine) as session:
        unknown = sorted(set(names) - rows.known(session, names))
        subjects = {
            scope: digests(workspace.deployment_id, scope, rows.subjects(session, scope)) for scope in ("video", "user")
        }
        due = purges.due(session)
    with ThreadPoolExecutor(_READERS) as pool:
        foreign = tuple(pool.map(partial(_read, workspace.bucket), unknown))
    told = tuple(_told(epoch, subjects) for epoch in foreign if epoch.kind in {"restore", "hold"})
    return Behind(why, told, foreign, due)


def adopt(workspace: Workspace, seen: Behind, *, by: str) -> int:
    """Accept what was `seen`, start all graces anew, end all notices, and announce it; return how many graces started.

    It ends the freeze of `db restore`, and no other. Raises StoreBehind where another copy has acted since it was seen.
    """
    grace = workspace.in_force.policies.lifecycle.grace
    with transaction(workspace.engine, "adopt") as session:
        deployment.lock(session)
        waiting = rows.unconfirmed(session)
        rows.accept(session, seen.foreign)
        # guard epochs.adopted_graces: what was restored or held since a backup is purged after its old grace
        graces = purges.renew_graces(session, grace)
        # guard epochs.adopted_notices: after a restored backup, a video is retired that its user asked to keep since
        notices.end_all(session, "its store was restored, and does not know what was kept since")
        until = now(session) + timedelta(days=HOLD_DAYS)
        # guard epochs.adopted_holds: what the bucket tells was held is purged when the new grace is over
        placed = [terms for told in seen.told for terms in _terms(told, by, until)]
        for terms in placed:
            holds.place(session, uuid4().hex[:12], terms)
        rows.set_marks(session, {RESTORED: None, BEHIND: None, HOME: rows.home(session), ADOPTED: by})
        rows.confirm(session, [epoch.name for epoch in waiting])  # others may never see these numbers: told again
        for epoch in waiting:
            rows.announce(session, uuid4().hex[:16], epoch.kind, epoch.detail)
        rows.announce(session, uuid4().hex[:16], "adopt", {})
        stopped = deployment.stopped(session)
        if stopped and stopped.by == deployment.RESTORE:
            deployment.let_go_on(session)
        detail = {"why": seen.why, "epochs": len(seen.foreign), "graces": graces, "holds": len(placed)}
        append(session, [Event("adopt_store", by, detail=detail)])
    epochs.publish(workspace)
    return graces


def _read(bucket: Bucket, name: str) -> Epoch:
    number = int(name.partition("-")[0])
    try:
        content: dict[str, Any] = json.loads(bucket.read_bytes(bucket.epoch_key(name)))
    except ObjectMissing:  # another copy has dropped it meanwhile
        content = {}
    return Epoch(name, number, str(content.pop("kind", "gone")), content)


def _told(epoch: Epoch, subjects: dict[str, dict[str, str]]) -> Told:
    named = {scope: tuple(epoch.detail.get(f"{scope}s", ())) for scope in ("video", "user")}
    known = {scope: tuple(subjects[scope][item] for item in named[scope] if item in subjects[scope]) for scope in named}
    unknown = sum(len(named[scope]) - len(known[scope]) for scope in named)
    until = epoch.detail.get("until")
    return Told(
        epoch.kind,
        epoch.number,
        known["video"],
        known["user"],
        unknown,
        datetime.fromisoformat(until) if until else None,
        bool(epoch.detail.get("legal")),
    )


def _terms(told: Told, by: str, until: datetime) -> Sequence[HoldTerms]:
    if told.until and told.until <= until - timedelta(days=HOLD_DAYS):
        return []
    reason = f"{told.kind} number {told.number}, which this store did not know"
    both = [("video", video_id) for video_id in told.videos] + [("user", user_id) for user_id in told.users]
    return [HoldTerms(scope, subject, reason, by, until, told.is_legal) for scope, subject in both]
