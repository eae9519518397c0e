"""Keys: the check that keeps every request under the prefix, Reelkeeper's own key format, and ids.

R2 accepts almost any key, but normalizes Unicode to NFC; other S3 servers normalize empty segments, backslashes, `.`
and `..`, or hide objects under `.uploads`. A key that two servers read differently may name somebody else's object, so
it is refused.
"""

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from reelkeeper.errors import KeyRefused
from reelkeeper.model.key_patterns import DEFAULT_PATTERNS, KeyPattern, compiled

MAX_KEY_BYTES = 1024  # Cloudflare R2 "Limits" page: object key length, in UTF-8
IDENTITY = ".reelkeeper-identity.json"  # under the prefix, so that a token scoped to the prefix suffices
PROBE = ".reelkeeper-probe"  # where `reelkeeper doctor` tests the conditional put
EPOCHS = ".epochs/"  # under the prefix, changes that other copies of the store must see: left out of listings
IMAGES = ".images/"  # under the prefix, input images by their digest: left out of listings, so never adopted or swept
CONTRACT = ".contract-"  # under the prefix, with a nonce: for the tests of `doctor --contract`; left out of listings
VIDEO_EXTENSIONS = frozenset({"mp4", "webm", "mov", "mkv", "m4v"})

_ID = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
_OWN = re.compile(rf"({_ID})/({_ID})/g([1-9][0-9]{{0,8}})-([0-9a-f]{{16}})\.([a-z0-9]{{1,8}})", re.ASCII)
DEFAULT_LAYOUT = compiled(DEFAULT_PATTERNS)

_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_ID = 128
_SLUG = 40  # characters that are kept of a name that is not an id
_HASH = 12  # hex digits: 48 bits distinguish equal names
_DULL = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*")  # only characters that all servers read in the same way
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control, lone surrogates, line and paragraph separators
_NOT_XML = frozenset({"\ufffe", "\uffff"})  # XML 1.0 cannot carry them, so neither can a batch delete


class ParsedKey(NamedTuple):
    """The parts of a key. `generation` and `nonce` are None if Reelkeeper did not make the key.

    Then `user_id` and `video_id` are the names in the key, of which `safe_id` makes ids; `pattern` is the index in the
    layout of the pattern that matched, and `made_before` the end of the date in the key.
    """

    user_id: str | None
    video_id: str
    generation: int | None
    nonce: str | None
    extension: str
    pattern: int | None = None
    made_before: datetime | None = None


def blob_key(prefix: str, user_id: str, video_id: str, generation: int, extension: str) -> str:
    """Return a key that was never used before, with 64 random bits. Raises KeyRefused if a part is malformed."""
    key = f"{prefix}{user_id}/{video_id}/g{generation}-{secrets.token_hex(8)}.{extension}"
    parsed = parse_key(prefix, confined(prefix, key))
    if parsed is None or parsed[:3] != (user_id, video_id, generation) or parsed.extension != extension:
        raise KeyRefused(
            f"no key can be made for user {user_id!r}, video {video_id!r}, generation {generation}, extension "
            f"{extension!r}: ids match {_ID}, generations begin at 1, extensions are 1 to 8 of a-z and 0-9"
        )
    return key


def parse_key(prefix: str, key: str, layout: Sequence[KeyPattern] = DEFAULT_LAYOUT) -> ParsedKey | None:
    """Parse a key in our own format, or one that a pattern of `layout` matches; None for any other."""
    try:
        rest = confined(prefix, key)[len(prefix) :]
    except KeyRefused:
        return None
    if own := _OWN.fullmatch(rest):
        user_id, video_id, generation, nonce, extension = own.groups()
        return ParsedKey(user_id, video_id, int(generation), nonce, extension)
    if not has_video_extension(rest):
        return None
    for place, pattern in enumerate(layout):
        if parts := pattern.read(rest):
            extension = parts.extension.lower()
            return ParsedKey(parts.user, parts.video, None, None, extension, place, parts.made_before)
    return None


def has_video_extension(key: str) -> bool:
    """Check whether a key ends with the extension of a video."""
    return key.rpartition(".")[2].lower() in VIDEO_EXTENSIONS


def safe_id(name: str, *owners: str) -> str:
    """Return `name` if it is a valid id, else an id from its valid characters and a hash of it and `owners`."""
    if re.fullmatch(_ID, name) and not name.endswith(".versions"):
        return name
    slug = _NOT_IN_AN_ID.sub("-", name).strip("-")[:_SLUG]
    return f"{slug or 'x'}-{_digest(*owners, name)}"


def unique_id(video_id: str, user_id: str, name: str) -> str:
    """Return a video's id if another user also has `video_id`: from user and name, so it depends on no order."""
    return f"{video_id[: _MAX_ID - _HASH - 1]}-{_digest(user_id, name)}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_HASH]


def confined(prefix: str, key: str) -> str:
    """Return `key` if it is well formed and lies under `prefix`, else raise KeyRefused with the reason."""
    # guard bucket.prefix: others' objects, outside the prefix, are deleted
    if not key.startswith(prefix) or len(key) == len(prefix):
        raise KeyRefused(f"key {key!r} is not under the prefix {prefix!r}: Reelkeeper touches nothing else")
    fault = flaw(key)
    # guard bucket.odd_keys: two servers read a key differently, and the wrong object is deleted
    if fault:
        raise KeyRefused(f"key {key!r} {fault}: servers disagree about which object it names; rename the object")
    return key


def flaw(key: str) -> str | None:  # noqa: PLR0911  one return for each thing that can be wrong
    """Return what is wrong with `key` under any prefix, or None."""
    if len(key) <= MAX_KEY_BYTES and _DULL.fullmatch(key):
        return _segment_flaw(key) if ".versions" in key else None
    if not key or key.startswith("/") or key.endswith("/") or "//" in key:
        return "has an empty segment"
    if "\\" in key:
        return "contains a backslash"
    if any(unicodedata.category(character) in _CONTROL or character in _NOT_XML for character in key):
        return "contains a control character"
    if not unicodedata.is_normalized("NFC", key):
        return "is not in Unicode normal form C"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"has {len(key.encode()):,} bytes, more than {MAX_KEY_BYTES:,}"
    if key != key.strip():
        return "begins or ends with white space"
    return _segment_flaw(key)


def _segment_flaw(key: str) -> str | None:
    for segment in key.split("/"):
        if segment in {".", "..", ".uploads"} or segment.endswith(".versions"):
            return f"contains the segment {segment!r}"
    return None
