"""Verify a vendor's webhook about an ended job: signed by the vendor, at a URL that only we can have made.

A vendor signs its calls in the same way for all customers, so its signature does not say whose job it is. The URL
contains our key of the job and a code over it, made with our own secret. A call only prompts a look: it has the
vendor's id of a job whose answer was lost, and the job's state is then read from the vendor.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from reelkeeper.adapters import public
from reelkeeper.adapters.providers.inputs import CODE, KEY, code_of
from reelkeeper.adapters.providers.webhook import MAX_BYTES, TOLERANCE_SECONDS, job_named
from reelkeeper.errors import AddressRefused, SignatureRefused

_KEYS_URL: Final = "https://rest.fal.ai/.well-known/jwks.json"
_KEYS_SECONDS: Final = 3600.0  # fal requires a day at most
_fetched: dict[str, tuple[float, list[Ed25519PublicKey]]] = {}  # by URL: the time, and the keys


class Call(NamedTuple):
    """The job that a call is about: our key and the vendor's id."""

    key: str
    job_id: str


def signer(headers: Mapping[str, str]) -> str:
    """Return the vendor that signed a call, by its headers, for the path that all vendors had in earlier versions."""
    marks = {
        "fal": "x-fal-webhook-signature",
        "replicate": "webhook-signature",
        "openrouter": "x-openrouter-signature",
    }
    return next((vendor for vendor, mark in marks.items() if mark in headers), "http")


def verify(
    vendor: str,
    secret: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    **how: Any,  # noqa: ANN401  of fal_keys
) -> Call:
    """Verify a call of fal, Replicate or OpenRouter. `now` is Unix time; `how` has the URL of fal's keys.

    Raises SignatureRefused for one that is not signed, more than five minutes off, over 64 kB, or at another URL.
    """
    key = query.get(KEY, "")
    # guard vendor_call.address: another customer of the vendor makes one of our jobs adopt theirs
    if not key or not hmac.compare_digest(code_of(key, secret).encode(), query.get(CODE, "").encode()):
        raise SignatureRefused("the call is not at a URL that was given to the provider")
    # guard vendor_call.size: a callback of any size is hashed and parsed
    if len(body) > MAX_BYTES:
        raise SignatureRefused(f"the body has {len(body):,} bytes, the limit is {MAX_BYTES:,}")
    if vendor == "fal":
        _require_fal(headers, body, now, fal_keys(**how))
        return Call(key, job_named(body, "request_id"))
    if vendor == "openrouter":
        _require_openrouter(secret, headers, body, now)
        return Call(key, job_named(body, "data.id"))
    _require_standard(secret, headers, body, now)
    return Call(key, job_named(body, "id"))


def fal_keys(url: str | None = None, *, allow_private: bool = False) -> list[Ed25519PublicKey]:
    """Fetch the keys that fal signs with, once an hour. Raises SignatureRefused if they cannot be read."""
    address = f"{url.rstrip('/')}/.well-known/jwks.json" if url else _KEYS_URL
    at, keys = _fetched.get(address, (0.0, []))
    if not keys or time.monotonic() - at > _KEYS_SECONDS:
        try:
            with public.streamed("GET", address, allow_private=allow_private) as answer:
                keys = list(_keys(json.loads(public.read(answer))))
        except (httpx.HTTPError, AddressRefused, ValueError) as error:
            raise SignatureRefused(f"the provider's keys cannot be read: {public.cause(error)}") from None
        _fetched[address] = time.monotonic(), keys
    return keys


def _keys(document: object) -> Iterator[Ed25519PublicKey]:
    listed = document.get("keys") if isinstance(document, dict) else None
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and entry.get("crv") == "Ed25519":
            raw = str(entry.get("x", ""))
            yield Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)))


def _require_fal(headers: Mapping[str, str], body: bytes, now: float, keys: list[Ed25519PublicKey]) -> None:
    names = ("request-id", "user-id", "timestamp")
    request_id, user_id, at = (headers.get(f"x-fal-webhook-{name}", "") for name in names)
    _require_now(at, now)
    signed = "\n".join([request_id, user_id, at, hashlib.sha256(body).hexdigest()]).encode()
    try:
        signature = bytes.fromhex(headers.get("x-fal-webhook-signature", ""))
    except ValueError:
        signature = b""
    # guard vendor_call.fal: a forged fal callback assigns a request to a job whose answer was lost
    if not any(_is_signed(key, signature, signed) for key in keys):
        raise SignatureRefused("the call is not signed with a key of fal")


def _is_signed(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _require_standard(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Require a signature as https://www.standardwebhooks.com specifies it."""
    call_id, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    _require_now(at, now)
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"))
    except binascii.Error:
        raise SignatureRefused("REELKEEPER_REPLICATE_WEBHOOK_SECRET must have the form whsec_...") from None
    expected = base64.b64encode(hmac.digest(key, f"{call_id}.{at}.".encode() + body, "sha256"))
    given = [part.partition(",")[2] for part in headers.get("webhook-signature", "").split() if part.startswith("v1,")]
    # All are compared, so that the time taken reveals nothing.
    # guard vendor_call.standard: a forged callback assigns a request to a job whose answer was lost
    if not sum(hmac.compare_digest(expected, text.encode()) for text in given):
        raise SignatureRefused("the call is not signed with the secret that REELKEEPER_REPLICATE_WEBHOOK_SECRET holds")


def _require_openrouter(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Require a signature as openrouter.ai/docs/cookbook/video-generation/video-generation-webhooks has it."""
    parts = dict(part.strip().partition("=")[::2] for part in headers.get("x-openrouter-signature", "").split(","))
    at = parts.get("t", "")
    _require_now(at, now)
    expected = hmac.digest(secret.encode(), f"{at},".encode() + body, "sha256").hex()
    # guard vendor_call.openrouter: a forged callback of OpenRouter's assigns a job to one whose answer was lost
    if not hmac.compare_digest(expected.encode(), parts.get("v1", "").encode()):
        raise SignatureRefused("the call is not signed with the secret that REELKEEPER_OPENROUTER_WEBHOOK_SECRET holds")


def _require_now(at: str, now: float) -> None:
    is_time = at.isascii() and at.isdigit() and len(at) <= 12  # noqa: PLR2004  digits
    # guard vendor_call.window: a recorded callback can be replayed for ever
    if not is_time or abs(now - int(at)) > TOLERANCE_SECONDS:
        raise SignatureRefused(f"the call's time is more than {TOLERANCE_SECONDS} s off")
