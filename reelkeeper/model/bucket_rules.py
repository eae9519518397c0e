"""What a bucket does by itself, whoever asks: refuse deletes, or delete."""

from typing import NamedTuple


class Lock(NamedTuple):
    """A rule that refuses to delete or overwrite what lies under `prefix`. `lasts` says for how long, in words."""

    id: str
    prefix: str
    lasts: str
    ends: bool  # for each object by itself, some time after its upload


class Expiry(NamedTuple):
    """A rule that deletes what lies under `prefix`, or moves it to another storage class: `does`, in words."""

    id: str
    prefix: str
    does: str


def touches(rule: Lock | Expiry, prefix: str) -> bool:
    """Whether a rule applies to anything under `prefix`."""
    return prefix.startswith(rule.prefix) or rule.prefix.startswith(prefix)
