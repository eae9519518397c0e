"""Until when a bucket lock keeps bytes that were to go: of each, by the rules that Cloudflare's API tells."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final

from reelkeeper.adapters import cloudflare
from reelkeeper.adapters.s3.deletes import LOCKED
from reelkeeper.errors import ReelkeeperError
from reelkeeper.model.bucket_rules import NEVER, Lock, locked_until
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle.takedown import Certificate, Removed
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
    if not any(LOCKED in item.why for item in found.left):
        return found
    try:
        locks = read()
    except ReelkeeperError:  # of a token that may not read them: what is known is still said
        locks = ()
    return found._replace(objects=tuple(_explained(workspace, item, locks) for item in found.objects))


def _explained(workspace: Workspace, item: Removed, locks: Sequence[Lock]) -> Removed:
    if item.purged_at or LOCKED not in item.why:
        return item
    try:
        stored = workspace.bucket.head(item.key)
    except ReelkeeperError:
        stored = None
    until = locked_until(locks, item.key, stored.last_modified) if stored else None
    if until is None:
        return item._replace(why=_UNKNOWN)
    ends = "for ever" if until == NEVER else f"until {until:%Y-%m-%d %H:%M} UTC. Repeat the takedown then"
    return item._replace(why=f"a bucket lock keeps it {ends}")
