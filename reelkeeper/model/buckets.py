"""A bucket's own locks and lifecycle rules, and its event messages."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

NEVER: Final = datetime.max.replace(tzinfo=UTC)


class Lock(NamedTuple):
    """A rule that refuses to delete or overwrite objects under `prefix`: by age, until a date, or for ever."""

    id: str
    prefix: str
    age: timedelta | None = None  # since the upload of each object
    until: datetime | None = None

    @property
    def lasts(self) -> str:
        """Say for how long, in words."""
        if self.age is not None:
            return f"for {self.age / timedelta(days=1):g} days from their upload"
        return f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "for ever"

    @property
    def ends(self) -> bool:
        """Check whether it ends for each object separately, some time after its upload."""
        return self.age is not None

    def ends_at(self, stored_at: datetime) -> datetime:
        """Give the moment from which an object that was stored then may be deleted; NEVER where there is none."""
        return stored_at + self.age if self.age is not None else self.until or NEVER


class Expiry(NamedTuple):
    """A rule that deletes objects under `prefix`, or moves them to another storage class: `does`, in words."""

    id: str
    prefix: str
    does: str


def locked_until(locks: Iterable[Lock], key: str, stored_at: datetime) -> datetime | None:
    """Give the moment when the last lock on an object ends, NEVER for one without end; None where there is no lock."""
    return max((lock.ends_at(stored_at) for lock in locks if key.startswith(lock.prefix)), default=None)


def touches(rule: Lock | Expiry, prefix: str) -> bool:
    """Check whether a rule applies to anything under `prefix`."""
    return prefix.startswith(rule.prefix) or rule.prefix.startswith(prefix)


class Message(NamedTuple):
    """A message of the queue, held under a lease until it is acknowledged or the lease ends."""

    lease_id: str
    attempts: int  # how often it was delivered, with this time
    body: Any  # JSON; None where it could not be decoded


class Pulled(NamedTuple):
    """A batch of messages, and the number of messages left in the queue; None where it is not given."""

    messages: list[Message]
    backlog: int | None


class BucketEvent(NamedTuple):
    """A change of an object, at some time: it only prompts a look at its key.

    `is_deletion`: the service has deleted it. `size_bytes` and `etag` are of the object then; None if it was deleted.
    """

    key: str
    is_deletion: bool
    size_bytes: int | None
    etag: str | None
