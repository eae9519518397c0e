"""Define the contract between Reelkeeper and a bucket, as checks that run against any bucket.

Each check works in its own scratch prefix, `{prefix}.contract-<16 hex digits>/`, through a `Bucket` that cannot access
anything else, so it is safe on a bucket in production: no other object is read, written or deleted, and the catalogue's
listings leave it out. `reelkeeper doctor --contract` runs them, and so do the tests.

A check returns a description of what it observed, or raises `Broken` with the deviation.
"""

import re
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import httpx
from botocore.exceptions import ClientError

from reelkeeper.adapters.contract.checks import CHECKS, DANGEROUS
from reelkeeper.adapters.contract.scratch import Broken, Scratch, Target, scratch
from reelkeeper.adapters.s3.keys import CONTRACT
from reelkeeper.adapters.s3.transport import cause, is_refusal, translate_errors
from reelkeeper.errors import Misconfigured, ReelkeeperError

__all__ = [
    "CHECKS",
    "DANGEROUS",
    "Broken",
    "Result",
    "Scratch",
    "Target",
    "check_one",
    "require_write",
    "run",
    "scratch",
]

_LONG: Final = re.compile(r"(\S{80})\S{40,}")
ABANDONED_AFTER: Final = timedelta(hours=1)  # an older scratch prefix belongs to a killed run


class Result(NamedTuple):
    """The result of one check: whether it passed, and what was observed."""

    check: str
    passed: bool
    seen: str


def run(target: Target) -> Iterator[Result]:
    """Remove leftovers of killed runs, then run each check in its own scratch prefix, which is removed afterwards.

    Raises StorageError where the keys may not write, which says nothing of the server.
    """
    start = target.bucket.prefix + CONTRACT
    with translate_errors(f"LIST {start}"):
        answer = target.client().list_objects_v2(Bucket=target.bucket.name, Prefix=start, Delimiter="/")
    for prefix in (entry["Prefix"] for entry in answer.get("CommonPrefixes", [])):
        left = Scratch(target, prefix)
        if all(datetime.now(UTC) - stored.last_modified > ABANDONED_AFTER for stored in left.listed().values()):
            left.clear()
    # guard contract.may_write: a server counts as dangerous since the keys that tried it may only read
    with scratch(target) as place:
        place.put(place.key("first"), b"Written by reelkeeper doctor --contract.\n")
    for name, check in CHECKS.items():
        yield check_one(target, name, check)


def require_write(target: Target) -> None:
    """Raise Misconfigured where the keys may not write under the prefix. Stores nothing.

    It sends a part of an upload that was never begun: that needs the right to put, and there is nothing to add it to.
    """
    key = f"{target.bucket.prefix}{CONTRACT}{secrets.token_hex(8)}/part"
    try:
        target.client().upload_part(
            Bucket=target.bucket.name, Key=key, UploadId=secrets.token_hex(16), PartNumber=1, Body=b""
        )
    except ClientError as error:
        if is_refusal(error):  # else it is the upload that is refused, as unknown
            raise Misconfigured(
                f"bucket {target.bucket.name!r} cannot be written to under {target.bucket.scope!r}: {cause(error)}"
            ) from error


def check_one(target: Target, name: str, check: Callable[["Scratch"], str]) -> Result:
    """Run one check, and return its result."""
    try:
        with scratch(target) as place:
            return Result(name, True, check(place))
    except Broken as broken:
        return Result(name, False, _brief(str(broken)))
    except (ReelkeeperError, ClientError, httpx.HTTPError) as error:
        return Result(name, False, _brief(f"{type(error).__name__}: {error}"))


def _brief(text: str) -> str:
    """Cut long words, such as a key of 1,024 bytes."""
    return _LONG.sub(r"\1...", text)
