"""Note that an idempotency key brings back what an earlier request did, for the answer to say so.

What was done is the value that an operation returns, the same for both requests. That it was done before is noted
beside it: a front listens, and the operation that finds the key notes it.
"""

from contextvars import ContextVar

_heard: ContextVar[list[bool] | None] = ContextVar("_heard", default=None)


def listen() -> list[bool]:
    """Return a list that is empty until this request, in whichever thread, finds its key: it then has an item."""
    heard: list[bool] = []
    _heard.set(heard)
    return heard


def note() -> None:
    """Note that a key was found, with the same parameters. Without a listener, nothing happens."""
    heard = _heard.get()
    if heard is not None:
        heard.append(True)
