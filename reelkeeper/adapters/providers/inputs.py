"""A request in the words that models of videos take, and our mark in what is sent."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from reelkeeper.errors import GenerationRefused

_RATIOS: Final = {"16:9": 16 / 9, "9:16": 9 / 16, "1:1": 1.0, "4:3": 4 / 3, "3:4": 3 / 4, "21:9": 21 / 9}
KEY: Final = "key"  # of our job, in the query of a webhook's address
CODE: Final = "code"  # that shows that the address is ours


def seconds_of(request: Mapping[str, Any]) -> int | float:
    """Give the length, as a whole number where it is one: most models know a few lengths alone."""
    seconds = float(request["duration_seconds"])
    return int(seconds) if seconds.is_integer() else seconds


def aspect_ratio(request: Mapping[str, Any]) -> str:
    """Name the ratio that is nearest, of those that most models know.

    >>> [aspect_ratio({"width": width, "height": height}) for width, height in ((1280, 720), (480, 854), (64, 64))]
    ['16:9', '9:16', '1:1']
    """
    wanted = request["width"] / request["height"]
    return min(_RATIOS, key=lambda name: abs(_RATIOS[name] / wanted - 1))


def options_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request may leave out, under the names that most models have for it."""
    found = {name: request[name] for name in ("negative_prompt", "seed") if request.get(name) not in (None, "")}
    return found if request.get("audio") is None else found | {"generate_audio": request["audio"]}


def with_parameters(shape: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Add what else a request asks for; null takes a field out, which its model does not know.

    Raises GenerationRefused for one that says the shape differently from what its price was quoted for.
    """
    whole = dict(shape)
    for name, value in (request.get("parameters") or {}).items():
        # guard provider.quoted_shape: a parameter asks for a longer or larger video than was quoted and held
        if name in shape and value not in (None, shape[name]):
            raise GenerationRefused(f"parameter {name!r} is {value!r}, and the request's own is {shape[name]!r}")
        if value is None:
            whole.pop(name, None)
        else:
            whole[name] = value
    return whole


def seed_of(key: str) -> int:
    """Give a seed that no other job sends: 31 bits of the key's digest."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1


def marked_url(webhook_url: str, key: str, secret: str | None = None) -> str:
    """Give the address that a provider calls, with the job's key in it, and a code over it where there is a secret."""
    mark = {KEY: key} | ({CODE: code_of(key, secret)} if secret else {})
    return f"{webhook_url}{'&' if urlsplit(webhook_url).query else '?'}{urlencode(mark)}"


def code_of(key: str, secret: str) -> str:
    """Return the authentication code of a key: an HMAC with our secret."""
    return hmac.digest(secret.encode(), f"webhook of {key}".encode(), "sha256").hex()


def key_of(url: object) -> str | None:
    """Read the key from such an address; None where it has none."""
    found = parse_qs(urlsplit(url).query).get(KEY) if isinstance(url, str) else None
    return found[0] if found else None
