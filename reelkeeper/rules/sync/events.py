"""Parse R2's event notifications, and decide which of them need a look at the bucket. Pure.

Notifications come at least once and in any order, so none is trusted: each prompts a look at one key.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from reelkeeper.model import BlobState, Recorded
from reelkeeper.model.buckets import BucketEvent
from reelkeeper.model.requests import is_text

# Deletions by the service. Those by the bucket's lifecycle rules were not requested: the listing reports them as lost.
DELETION: Final = "DeleteObject"
SETTLING: Final = timedelta(minutes=5)  # after which an event has arrived, if at all, and was handled
_FIRST_DELAY_SECONDS: Final = 30
_MAX_DELAY_SECONDS: Final = 3_600
_SHOWN: Final = 100  # characters of a message in a log


class Unread(NamedTuple):
    """Reason why a message cannot be used: it is acknowledged, counted and reported, and changes nothing."""

    kind: str  # foreign or malformed
    why: str


def read(body: Any, *, account_id: str | None, bucket: str) -> BucketEvent | Unread:  # noqa: ANN401  any JSON
    """Parse the body of a message, which may be from another bucket, or malformed."""
    if not isinstance(body, Mapping):
        return Unread("malformed", f"no JSON object, but {type(body).__name__}")
    action, stored = body.get("action"), body.get("object")
    subject = stored if isinstance(stored, Mapping) else {}
    key = subject.get("key")
    if not isinstance(action, str) or not isinstance(key, str) or not key or not isinstance(body.get("bucket"), str):
        return Unread("malformed", "no action, bucket or object.key")
    if not is_text(key):
        return Unread("malformed", "object.key is no text")
    # guard events.this_bucket: events of another bucket change videos of this one
    if body["bucket"] != bucket:
        return Unread("foreign", f"of the bucket {body['bucket'][:_SHOWN]!r}")
    if account_id and body.get("account") not in (None, account_id):
        return Unread("foreign", "of another account")
    size_bytes, etag = subject.get("size"), subject.get("eTag")
    return BucketEvent(
        key,
        action == DELETION,
        size_bytes if isinstance(size_bytes, int) else None,
        etag.strip('"') if isinstance(etag, str) else None,
    )


def is_explained(event: BucketEvent, state: str, recorded: Recorded) -> bool:
    """Check whether the row of an event's key already shows the change, as after Reelkeeper's own changes.

    A key of the service's may be stored again with the same ETag, which only a HEAD can detect.
    """
    if state == BlobState.PENDING:
        return True  # its intent decides
    if event.is_deletion:
        return state in (BlobState.DELETING, BlobState.GONE)
    # guard events.own_keys: an upload of the same bytes by the service keeps the age of the earlier one
    if not recorded.is_ours:
        return False
    as_recorded = (event.size_bytes, event.etag) == (recorded.size_bytes, recorded.etag)
    return as_recorded and state in (BlobState.LIVE, BlobState.RETIRED, BlobState.DELETING)


def retry_seconds(attempts: int) -> int:
    """Return the seconds until a message is delivered again, by the number of failed attempts.

    >>> [retry_seconds(attempts) for attempts in (1, 2, 3, 50)]
    [30, 60, 120, 3600]
    """
    return int(min(_FIRST_DELAY_SECONDS * 2 ** min(attempts - 1, 10), _MAX_DELAY_SECONDS))


def gap_window(since: datetime, caught_up_at: datetime, listed_at: datetime) -> tuple[datetime, datetime] | None:
    """Return the period in which every stored object must have had its event handled; None if there is none.

    Events were followed from `since` on, and the queue was empty at `caught_up_at`.
    """
    until = min(caught_up_at, listed_at) - SETTLING
    return (since, until) if since < until else None
