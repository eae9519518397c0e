"""Validate the parameters of credit transfers, and detect equal requests. Pure."""

import hashlib
import json
from typing import Final

from reelkeeper.errors import AmountRefused

MAX_MICROUSD: Final = 10**12  # a million dollars in one move; more is a mistake
MAX_SECONDS: Final = 30 * 24 * 3600  # the longest hold
MAX_KEY_CHARACTERS: Final = 200
OURS: Final = "expire:"  # the prefix of Reelkeeper's own keys


def require_amount(amount_microusd: int, *, least: int) -> None:
    """Raise AmountRefused unless it is an integer from `least` to a million dollars. Floats and bools are refused."""
    # guard ledger.amount: a negative or mistyped amount moves a user's credits the wrong way
    if type(amount_microusd) is not int or not least <= amount_microusd <= MAX_MICROUSD:
        raise AmountRefused(
            f"{amount_microusd!r} micro-dollars: an amount is an integer from {least} to {MAX_MICROUSD:,}; "
            "nothing was moved"
        )


def require_lasting(seconds: int) -> None:
    """Raise AmountRefused unless the seconds are a valid duration of a hold."""
    if type(seconds) is not int or not 1 <= seconds <= MAX_SECONDS:
        raise AmountRefused(f"{seconds!r} s: what is held lasts 1 to {MAX_SECONDS:,} s; nothing was changed")


def require_key(key: str) -> None:
    """Raise AmountRefused unless `key` is a valid idempotency key."""
    # guard ledger.own_keys: a caller's key blocks the expiry of a hold, which then never ends
    if not 0 < len(key) <= MAX_KEY_CHARACTERS or not key.isprintable() or key.startswith(OURS):
        raise AmountRefused(
            f"idempotency key {key[:MAX_KEY_CHARACTERS]!r}: it has 1 to {MAX_KEY_CHARACTERS} printable characters "
            f"and does not begin with {OURS!r}; nothing was changed"
        )


def own_key(user_id: str, key: str) -> str:
    """Return 32 hex digits for a user's idempotency key, as other users may choose the same key."""
    return hashlib.sha256(f"{user_id}\n{key}".encode()).hexdigest()[:32]


def fingerprint(**parameters: str | int | None) -> str:
    """Return the SHA-256 of the parameters as canonical JSON: equal only for equal requests."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
