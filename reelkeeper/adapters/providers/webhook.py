"""Verify webhooks that a provider sends us: signed with a shared secret, and at most minutes old.

    Reelkeeper-Signature: t=1764072000,v1=<hex of HMAC-SHA256(secret, "1764072000." + body)>

The call only prompts a look: the job's state is then read from the provider.
"""

import hashlib
import hmac
import json
from typing import Final

from reelkeeper.errors import SignatureRefused

HEADER: Final = "Reelkeeper-Signature"
TOLERANCE_SECONDS: Final = 300
MAX_BYTES: Final = 64 * 1024


def sign(secret: str, body: bytes, at: int) -> str:
    """Return the header for a body that is sent at this Unix time."""
    return f"t={at},v1={_digest(secret, body, at)}"


def verify(secret: str, body: bytes, header: str, now: float) -> str:
    """Verify a call and return the provider's id of its job. `now` is Unix time.

    Raises SignatureRefused for a call that is not signed with the secret, more than 5 minutes off, over 64 kB, or
    without a job.
    """
    # guard webhook.size: a callback of any size is hashed and parsed
    if len(body) > MAX_BYTES:
        raise SignatureRefused(f"the body has {len(body):,} bytes, the limit is {MAX_BYTES:,}")
    parts = [part.strip().partition("=") for part in header.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    # guard webhook.one_time: of two timestamps in a callback, one is signed and the other checked
    if len(times) != 1 or not (times[0].isascii() and times[0].isdigit() and len(times[0]) <= 12):  # noqa: PLR2004  digits
        raise SignatureRefused(f"{HEADER} must have one time and a signature: t=1764072000,v1=0123abcd...")
    at, given = int(times[0]), [value for name, _, value in parts if name == "v1"]
    expected = _digest(secret, body, at).encode()
    # All are compared, so that the time taken reveals nothing; there are two while a secret is being changed.
    # guard webhook.signature: anybody can make us query the provider about any job, without end
    if not sum(hmac.compare_digest(expected, text.encode()) for text in given):
        raise SignatureRefused("the call is not signed with the secret that REELKEEPER_HTTP_WEBHOOK_SECRET holds")
    # guard webhook.window: a recorded callback can be replayed for ever
    if abs(now - at) > TOLERANCE_SECONDS:
        raise SignatureRefused(f"the call was signed {now - at:+.0f} s ago, the limit is {TOLERANCE_SECONDS} s")
    return job_named(body, "id")


def job_named(body: bytes, field: str) -> str:
    """Return the provider's id of the job from a call's body. Raises SignatureRefused if it has none."""
    try:
        job_id = json.loads(body)
        for name in field.split("."):
            job_id = job_id[name]
    except (ValueError, TypeError, KeyError, RecursionError):
        job_id = None
    # The store accepts no NUL, no half surrogate.
    if not isinstance(job_id, str) or not job_id or not job_id.isprintable():
        raise SignatureRefused(f'the body must be JSON with the job\'s "{field}"')
    return job_id


def _digest(secret: str, body: bytes, at: int) -> str:
    # guard webhook.signs_time: a recorded callback can be replayed with a new timestamp
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
