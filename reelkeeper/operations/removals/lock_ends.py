"""Until when a bucket lock keeps bytes that were to go: of each, by the rules that Cloudflare's API tells."""

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from typing import Final

from reelkeeper.adapters import cloudflare
from reelkeeper.adapters.s3.deletes import LOCKED
from reelkeeper.errors import ReelkeeperError
from reelkeeper.model.buckets import NEVER, Lock, locked_until
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.removals.takedown import Certificate
from reelkeeper.settings import Settings

ReadLocks = Callable[[], Sequence[Lock]]
_UNKNOWN: Final = "a bucket lock keeps it; REELKEEPER_CLOUDFLARE_API_TOKEN would let this say until when"


def reader(settings: Settings) -> ReadLocks:
    """Make what reads the bucket's locks; it gives none where no token is set. Raises TokenRefused, UsageUnknown."""

    def read() -> Sequence[Lock]:
        client = cloudflare.connect(settings)
        if client is None:
            return ()
        with closing(client):
            return client.locks(settings.bucket, settings.jurisdiction)

    return read


def explain(workspace: Workspace, found: Certificate, read: ReadLocks) -> Certificate:
    """Say in `why` until when a lock keeps each object that the bucket refused to delete for one."""
    locked = [item.key for item in found.left if is_lock(item.why)]
    if not locked:
        return found
    until = ends(workspace, locked, read)
    return found._replace(
        objects=tuple(
            item._replace(why=_said(until.get(item.key))) if item.key in locked and not item.purged_at else item
            for item in found.objects
        )
    )


def is_lock(why: str) -> bool:
    """Whether this is what the bucket says of a locked object."""
    return LOCKED in why


def ends(workspace: Workspace, keys: Sequence[str], read: ReadLocks) -> dict[str, datetime]:
    """Give of each key the moment when its last lock ends, NEVER for one without end; left out where nobody knows."""
    try:
        locks = read()
        stored = workspace.bucket.stored(keys)
    except ReelkeeperError:  # of a token that may not read them: what is known is still said
        return {}
    known = ((key, locked_until(locks, key, found.last_modified)) for key, found in stored.items() if found)
    return {key: until for key, until in known if until is not None}


def _said(until: datetime | None) -> str:
    if until is None:
        return _UNKNOWN
    if until == NEVER:
        return "a bucket lock keeps it for ever"
    return f"a bucket lock keeps it until {until:%Y-%m-%d %H:%M} UTC. Repeat the takedown then"
