"""Translate a request into the fields that video models take, and mark it as ours."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

from reelkeeper.errors import GenerationRefused

_RATIOS: Final = {"16:9": 16 / 9, "9:16": 9 / 16, "1:1": 1.0, "4:3": 4 / 3, "3:4": 3 / 4, "21:9": 21 / 9}
KEY: Final = "key"  # our key of the job, in the query of a webhook's URL
CODE: Final = "code"  # shows that the URL is ours


def seconds_of(request: Mapping[str, Any]) -> int | float:
    """Return the length in seconds, as an integer if it is whole, since most models accept only a few lengths."""
    seconds = float(request["duration_seconds"])
    return int(seconds) if seconds.is_integer() else seconds


def aspect_ratio(request: Mapping[str, Any]) -> str:
    """Return the nearest aspect ratio that most models support.

    >>> [aspect_ratio({"width": width, "height": height}) for width, height in ((1280, 720), (480, 854), (64, 64))]
    ['16:9', '9:16', '1:1']
    """
    wanted = request["width"] / request["height"]
    return min(_RATIOS, key=lambda name: abs(_RATIOS[name] / wanted - 1))


def options_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optional fields of a request, under the names that most models have for them."""
    found = {name: request[name] for name in ("negative_prompt", "seed") if request.get(name) not in (None, "")}
    return found if request.get("audio") is None else found | {"generate_audio": request["audio"]}


def with_parameters(shape: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Add the request's own parameters; null removes a field that its model does not know.

    Raises GenerationRefused for one that changes the size or length for which the price was quoted.
    """
    merged = dict(shape)
    for name, value in (request.get("parameters") or {}).items():
        # guard provider.quoted_shape: a parameter requests a longer or larger video than was quoted and held
        if name in shape and value not in (None, shape[name]):
            raise GenerationRefused(f"parameter {name!r} is {value!r}, but the request has {shape[name]!r}")
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def seed_of(key: str) -> int:
    """Derive a seed that is practically unique to the job: 31 bits of its key's digest."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1


def marked_url(webhook_url: str, key: str, secret: str | None = None) -> str:
    """Build the webhook URL for a job, with its key and, if there is a secret, a code over the key."""
    mark = {KEY: key} | ({CODE: code_of(key, secret)} if secret else {})
    return f"{webhook_url}{'&' if urlsplit(webhook_url).query else '?'}{urlencode(mark)}"


def code_of(key: str, secret: str) -> str:
    """Return the authentication code of a key: an HMAC with our secret."""
    return hmac.digest(secret.encode(), f"webhook of {key}".encode(), "sha256").hex()


def key_of(url: object) -> str | None:
    """Read the key from such a URL; None if it has none."""
    found = parse_qs(parts_of(url).query).get(KEY)
    return found[0] if found else None


def parts_of(url: object) -> SplitResult:
    """Split a URL of a provider's answer; all parts are empty where it is none."""
    try:
        return urlsplit(url if isinstance(url, str) else "")
    # guard provider.odd_url: the id of a paid job is lost, as a URL beside it is malformed
    except ValueError:
        return urlsplit("")
