"""Read the bucket's own rules, by which objects expire, move or cannot be deleted, for `doctor`."""

from collections.abc import Callable
from contextlib import closing
from typing import Final, TypeVar

from reelkeeper.adapters import cloudflare
from reelkeeper.adapters.cloudflare.client import Client
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import ReelkeeperError, StorageError
from reelkeeper.model.buckets import Expiry, touches
from reelkeeper.redaction import redacted
from reelkeeper.settings import Settings

_MAY_READ: Final = "allow REELKEEPER_CLOUDFLARE_API_TOKEN Workers R2 Storage: Read, or look in the dashboard"
_Rule = TypeVar("_Rule")


def expiring(settings: Settings, bucket: Bucket) -> tuple[bool, str, str]:
    """Describe lifecycle rules that delete or move objects, read by the first of two APIs that the token permits.

    Return whether to warn, what was found, and the remedy.
    """
    rules: list[Expiry] | str
    try:
        rules = bucket.expiries()
    except StorageError as error:
        rules = _asked(settings, Client.expiries, f"these keys are not permitted to read them ({_in_short(error)})")
    if isinstance(rules, str):
        return True, rules, _MAY_READ
    touching = [rule for rule in rules if touches(rule, bucket.prefix)]
    if not touching:
        return False, f"no rule deletes or moves objects under {bucket.scope!r}", ""
    found = "; ".join(f"rule {rule.id!r} {rule.does} under {rule.prefix or 'every prefix'!r}" for rule in touching)
    remedy = "remove it: it deletes or moves objects without Reelkeeper, and with no grace period"
    return True, found, remedy


def locking(settings: Settings, bucket: Bucket) -> tuple[bool, str, str]:
    """Describe lock rules, which keep what is purged or overwritten; return as `expiring` does."""
    rules = _asked(settings, Client.locks, "they can only be read from Cloudflare's API, with an API token")
    if isinstance(rules, str):
        return True, rules, _MAY_READ
    touching = [rule for rule in rules if touches(rule, bucket.prefix)]
    if not touching:
        return False, f"no rule covers {bucket.scope!r}: everything with write access can also delete and overwrite", ""
    which = "; ".join(f"rule {rule.id!r} locks {rule.prefix or 'every prefix'!r} {rule.lasts}" for rule in touching)
    helps = "until then, nobody can delete or overwrite an object there, by mistake or on purpose"
    hinders = "purges and overwrites by your service are refused until then"
    ends = all(rule.ends for rule in touching)
    remedy = "" if ends else "objects there can never be purged: lock by age, for no longer than retention and grace"
    return not ends, f"{which}: {helps}; {hinders}", remedy


def _asked(
    settings: Settings, ask: Callable[[Client, str, str | None], list[_Rule]], otherwise: str
) -> list[_Rule] | str:
    """Read the rules from Cloudflare's API, or say why they are unknown: `otherwise`, where there is no token."""
    client = cloudflare.connect(settings)
    if client is None:
        return f"unknown: {otherwise}"
    with closing(client):
        try:
            return ask(client, settings.bucket, settings.jurisdiction)
        except ReelkeeperError as refused:
            return f"unknown: {_in_short(refused)}"


def _in_short(error: Exception) -> str:
    return redacted(str(error)).partition(";")[0][:200]
