"""Notice that this store is a copy, or older than what was done to its bucket, before it deletes anything.

Each run that deletes, each restore and each hold is an epoch:

    announce n+1 with a nonce (commit) --> look --> put `.epochs/<n+1>-<nonce>`, once --> look --> confirm (commit)

An epoch in the bucket that this store has not announced is another copy's: the store is behind, and deletes nothing
until `reelkeeper db adopt`. Announced first, so that after a kill, and by all machines of one store, it is recognized.
Who deletes announces before the first delete and looks before each batch, and a restore announces before it asks what
is stored: whichever of two copies comes second sees the other. Objects name videos and users by salted digests.

A store that was restored, or whose database is not the one in which it last worked, is behind without a look.
"""

import hashlib
import json
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from reelkeeper.errors import ReelkeeperError, StoreBehind
from reelkeeper.failpoints import effect
from reelkeeper.rules.core.wording import many
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import deployment
from reelkeeper.store.core import epochs as rows
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.epochs import BEHIND, HOME
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.core.leases import Lease

if TYPE_CHECKING:  # `status` asks without a bucket, and loads no client of it
    from reelkeeper.adapters.s3.r2 import Bucket
    from reelkeeper.operations.core.workspace import Workspace

Delete = Callable[[Sequence[str]], Mapping[str, str]]  # of the purge, which alone may; returns what stayed, and why
Kind = Literal["purge", "takedown", "erase", "restore", "hold", "adopt"]
NAME: Final = re.compile(r"(\d{12})-[0-9a-f]{16}")
_DIGEST: Final = 24  # hex digits
_DROPPED: Final = 1_000  # at once: one request
_UNTIL: Final = ". Nothing is purged, taken down, erased, restored or compressed by it until a person has looked"
_log = logging.getLogger(__name__)


def digests(deployment_id: str, scope: str, ids: Iterable[str]) -> dict[str, str]:
    """Return the ids of "video" or "user" by their digests, under which the bucket names them."""
    salt = f"{deployment_id}\0{scope}\0"
    return {hashlib.sha256(f"{salt}{subject}".encode()).hexdigest()[:_DIGEST]: subject for subject in ids}


def concerned(session: Session, scope: str, ids: Iterable[str], **more: object) -> Mapping[str, Any]:
    """Describe whom an epoch concerns, without their ids."""
    return {f"{scope}s": sorted(digests(deployment.identity(session), scope, ids)), **more}


def announce(session: Session, kind: Kind, detail: Mapping[str, Any], lease: str | None = None) -> None:
    """Announce an epoch within the caller's transaction, which has locked the deployment row."""
    rows.announce(session, secrets.token_hex(8), kind, detail, lease)


def why_behind(engine: Engine, bucket: "Bucket | None") -> str | None:
    """Explain why this store may not delete; None where it may. Without a bucket, as far as the store knows itself."""
    return _judge(engine, bucket, _known(engine))


class _Known(NamedTuple):
    """Record of the store's own state: why it may be a copy, why it was behind, and its last confirmed epoch."""

    away: str | None
    behind: str | None
    since: int


def _known(engine: Engine) -> _Known:
    with reading(engine) as session:
        return _Known(rows.why_away(session), rows.marks(session).get(BEHIND), rows.confirmed(session))


def _judge(engine: Engine, bucket: "Bucket | None", store: _Known) -> str | None:
    """Compare a store with its bucket, which is read first: what its other machines put by then, the store knows."""
    if store.away or bucket is None:
        return store.away or store.behind
    stored = [name for name in bucket.epochs(store.since) if NAME.fullmatch(name)]
    with reading(engine) as session:
        known = rows.known(session, stored)
    # guard epochs.foreign: a store purges what another copy of it, or its later state, has restored or held
    if foreign := sorted(set(stored) - known):
        return (
            f"the bucket has {many(len(foreign), 'change')} that this store does not know, the last is number "
            f"{int(foreign[-1].partition('-')[0])}: another copy of it works here, or it is an old state"
        )
    # guard epochs.missing: a store purges in an older copy of its bucket
    if store.since and not known:
        return f"the bucket lacks this store's last change, number {store.since}: it is a copy, or objects were deleted"
    return None


def require_current(workspace: "Workspace") -> None:
    """Raise StoreBehind where this store is a copy or an old state, OnTrial where it only reads. One request."""
    workspace.require_live()
    store = _known(workspace.engine)
    why = _judge(workspace.engine, workspace.bucket, store)
    if why != store.behind:
        with transaction(workspace.engine, "epoch.note") as session:
            rows.set_marks(session, {BEHIND: why})
    if why:
        raise StoreBehind(why + _UNTIL)


def require_at_home(engine: Engine) -> None:
    """Raise StoreBehind where the store shows by itself that it was copied or restored; sends no request."""
    if why := why_behind(engine, None):
        raise StoreBehind(why + _UNTIL)


@safe_to_repeat
def begin(workspace: "Workspace", kind: Kind, lease: Lease, delete: Delete) -> None:
    """Announce the deletions under a lease, unless that is done. Raises StoreBehind.

    With `delete`, epochs that tell nothing any more are dropped; a bucket lock may refuse that, which is harmless.
    """
    mine = next(iter(digests(workspace.deployment_id, "lease", [f"{lease.name}/{lease.token}/{lease.holder}"])))
    with reading(workspace.engine) as session:
        if rows.is_confirmed(session, mine):
            return
    require_current(workspace)
    with transaction(workspace.engine, "epoch.announce") as session:
        deployment.lock(session)
        if not rows.is_announced(session, mine):
            announce(session, kind, {}, mine)
    publish(workspace)
    with reading(workspace.engine) as session:
        names = {workspace.bucket.epoch_key(name): name for name in rows.obsolete(session, _DROPPED)}
    if names:
        with effect("epoch.drop"):
            kept = delete([*names])
        with transaction(workspace.engine, "epoch.dropped") as session:
            rows.forget(session, [name for key, name in names.items() if key not in kept])


def begin_restore(workspace: "Workspace", video_ids: Iterable[str]) -> None:
    """Announce that videos are restored, before it is asked whether their bytes are stored. Raises StoreBehind."""
    require_current(workspace)
    with transaction(workspace.engine, "epoch.announce") as session:
        deployment.lock(session)
        announce(session, "restore", concerned(session, "video", video_ids))
    publish(workspace)


def publish(workspace: "Workspace") -> None:
    """Put all epochs that are announced, and confirm them unless another copy is at work. Raises StoreBehind."""
    with reading(workspace.engine) as session:
        waiting, home = rows.unconfirmed(session), rows.marks(session).get(HOME)
    for epoch in waiting:
        content = {"kind": epoch.kind, "number": epoch.number, **epoch.detail}
        data = json.dumps(content, sort_keys=True).encode()
        with effect("epoch.put"):
            workspace.bucket.put_bytes_once(workspace.bucket.epoch_key(epoch.name), data, "application/json")
    # guard epochs.second_look: of two copies that begin at once, neither sees the other
    require_current(workspace)
    with transaction(workspace.engine, "epoch.confirm") as session:
        rows.confirm(session, [epoch.name for epoch in waiting])
        if home is None:
            rows.set_marks(session, {HOME: rows.home(session)})


def tell(workspace: "Workspace", *, seconds: float = 3) -> bool:
    """Publish what is announced, waiting for the bucket for some seconds at most; return whether the bucket knows it.

    A failure is left to the next run that deletes, restores, holds or syncs.
    """
    with reading(workspace.engine) as session:
        if not rows.unconfirmed(session):
            return True
    if workspace.on_trial:  # nothing has failed: the first run once it is live publishes it
        return False
    done = threading.Event()

    def put() -> None:
        try:
            require_current(workspace)
            publish(workspace)
            done.set()
        except ReelkeeperError as error:
            _log.warning("the bucket does not know the last holds yet: %s", error)

    thread = threading.Thread(target=put, name="epochs", daemon=True)
    thread.start()
    thread.join(seconds)
    return done.is_set()
