"""What R2 tells of objects that were created or deleted, as it comes out of its queue."""

from typing import Any, NamedTuple


class Message(NamedTuple):
    """A message of the queue, held under a lease until it is acknowledged or the lease ends."""

    lease_id: str
    attempts: int  # how often it was delivered, with this time
    body: Any  # JSON; None where it could not be decoded


class Pulled(NamedTuple):
    """A batch of messages, and how many more the queue says that it holds; None where it does not say."""

    messages: list[Message]
    backlog: int | None


class BucketEvent(NamedTuple):
    """Something was done to an object, at some time: no more than a reason to look at its key.

    `is_deletion`: the service has deleted it. `size_bytes` and `etag` are of the object then; None if it was deleted.
    """

    key: str
    is_deletion: bool
    size_bytes: int | None
    etag: str | None
