"""Find when bucket locks on objects to be deleted end, by the rules from Cloudflare's API."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from datetime import datetime
from typing import Final

from reelkeeper.adapters import cloudflare
from reelkeeper.adapters.s3.transport import LOCKED
from reelkeeper.errors import ReelkeeperError
from reelkeeper.model.buckets import NEVER, Lock, locked_until
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.removals.takedown import Certificate
from reelkeeper.settings import Settings

ReadLocks = Callable[[], Sequence[Lock]]
_UNKNOWN: Final = "a bucket lock keeps it; set REELKEEPER_CLOUDFLARE_API_TOKEN to see until when"


def reader(settings: Settings) -> ReadLocks:
    """Make a reader of the bucket's locks, which finds none without a token. Raises TokenRefused, UsageUnknown."""

    def read() -> Sequence[Lock]:
        client = cloudflare.connect(settings)
        if client is None:
            return ()
        with closing(client):
            return client.locks(settings.bucket, settings.jurisdiction)

    return read


def explain(workspace: Workspace, found: Certificate, read: ReadLocks) -> Certificate:
    """Add the end of the lock to `why` of each object that a bucket lock keeps."""
    until = ends(workspace, ((item.key, item.why) for item in found.left), read)
    return found._replace(
        objects=tuple(
            item._replace(why=_reason(until[item.key])) if item.key in until and not item.purged_at else item
            for item in found.objects
        )
    )


def ends(workspace: Workspace, kept: Iterable[tuple[str, str]], read: ReadLocks) -> dict[str, datetime | None]:
    """Return the end of the last lock on each locked key: NEVER if it has none, None if it is unknown.

    `kept` are keys with the bucket's refusals.
    """
    until = dict[str, datetime | None].fromkeys(key for key, why in kept if LOCKED in why)
    if until:
        with suppress(ReelkeeperError):  # of a token without that permission: the result has what is known
            locks = read()
            for key, stored in workspace.bucket.stored([*until]).items():
                until[key] = locked_until(locks, key, stored.last_modified) if stored else None
    return until


def _reason(until: datetime | None) -> str:
    if until is None:
        return _UNKNOWN
    if until == NEVER:
        return "a bucket lock keeps it for ever"
    return f"a bucket lock keeps it until {until:%Y-%m-%d %H:%M} UTC. Repeat the takedown then"
