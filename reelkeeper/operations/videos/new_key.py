"""Put a new object at a key of its own, beside the old bytes. `in_place` puts it over them, and answers the same."""

from pathlib import Path
from types import MappingProxyType

from reelkeeper.adapters.s3.r2 import Headers
from reelkeeper.failpoints import effect
from reelkeeper.model import Grace
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.store import Session
from reelkeeper.store.core.audit import Event
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.videos import intents as rows
from reelkeeper.store.videos.intents import Intent


def put(workspace: Workspace, intent: Intent, source: Path, headers: Headers = MappingProxyType({})) -> None:
    """Put the announced object, to be served with `headers`. Raises KeyTaken if another object is at its key."""
    with effect(f"{intent.kind}.put"):
        workspace.bucket.put_once(intent.key, source, intent.content_type, headers)


class NewKey:
    """What an intent has put at a key of its own: nothing was replaced, so nothing has to be put back."""

    author, hold_days = "", 0  # of a person who undoes a swap in place
    is_over_old = False  # our bytes are where the old ones were: these are put back if ours are not published

    def __init__(self, workspace: Workspace, intent: Intent) -> None:
        self.workspace, self.intent = workspace, intent

    @property
    def wrong(self) -> str | None:
        """Return why nothing can be published, before anything is read; None where it may."""
        return None

    def overtaken(self) -> str | None:
        """Report that the service has overwritten the source of a swap; None where it has not, or cannot."""
        if self.intent.kind != "swap":
            return None
        with reading(self.workspace.engine) as session:
            key, recorded = rows.source_object(session, self.intent)
        if recorded.is_ours:
            return None
        found = self.workspace.bucket.head(key)
        if found is not None and recorded.matches(found):
            return None
        return f"the service has overwritten or deleted {key} meanwhile"

    def begin_undo(self, session: Session, why: str) -> bool:  # noqa: ARG002  in place needs them
        """Record the decision to put the old bytes back; False where another run has ended the intent."""
        return False

    def put_back(self, folder: Path, lease: Lease) -> None:
        """Put the old bytes back over ours; `folder` has room for them."""

    def publish(self, session: Session, grace: Grace) -> None:
        """Record what is stored when the object is published."""

    def abandon(self, session: Session, grace: Grace, why: str) -> None:
        """Record what is stored when the intent is abandoned."""

    def replaced(self, event: Event, *, moved: bool) -> list[Event]:  # noqa: ARG002  in place needs them
        """Return the event by which a cache learns that a key has other bytes now, if it has."""
        return []
