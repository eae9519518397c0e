"""Keys: the check that keeps every request under the prefix, and Reelkeeper's own key format.

R2 accepts almost any key, but normalizes Unicode to NFC; other S3 servers normalize empty segments, backslashes, `.`
and `..`, or hide objects under `.uploads`. A key that two servers read differently may name somebody else's object, so
it is refused.
"""

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from reelkeeper.errors import KeyRefused
from reelkeeper.model import ids
from reelkeeper.model.key_patterns import DEFAULT_PATTERNS, VIDEO_EXTENSIONS, KeyPattern, compiled

MAX_KEY_BYTES = 1024  # Cloudflare R2 "Limits" page: object key length, in UTF-8
IDENTITY = ".reelkeeper-identity.json"  # under the prefix, so that a token scoped to the prefix suffices
PROBE = ".reelkeeper-probe"  # where `reelkeeper doctor` tests the conditional put, and a worker whether any succeeds
PROBE_BYTES = b"Written once by reelkeeper doctor.\n"  # the content of that object, whoever writes it
EPOCHS = ".epochs/"  # under the prefix, changes that other copies of the store must see: left out of listings
IMAGES = ".images/"  # under the prefix, input images by their digest: left out of listings, so never adopted or swept
CONTRACT = ".contract-"  # under the prefix, with a nonce: for the tests of `doctor --contract`; left out of listings

_NAME = r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,199}"
_OWN = re.compile(rf"({_NAME})/({_NAME})/g([1-9][0-9]{{0,8}})-([0-9a-f]{{16}})\.([a-z0-9]{{1,8}})", re.ASCII)
DEFAULT_LAYOUT = compiled(DEFAULT_PATTERNS)
# What services put behind a video's name for an image of it: v1-thumb.jpg, v1_poster_640x360.webp, v1.0001.png
IMAGE_SUFFIX = re.compile(r"(?:[-_.](?:thumb\w*|poster|preview|cover|frame|small|medium|large|[0-9]+(?:x[0-9]+)?))+$")

_MAX_NAME = 200  # bytes of an id's name; MinIO takes 255 for a segment
_ESCAPED = re.compile(rb"[^A-Za-z0-9._-]|^\.|\.(?=versions$)")
_ESCAPE = re.compile(rb"=([0-9A-F]{2})")
_HASHED = "=="  # which no escaped name contains
_SLUG = 40
_DULL = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*")  # only characters that all servers read in the same way
_NOT_XML = frozenset({"\ufffe", "\uffff"})  # XML 1.0 cannot carry them, so neither can a batch delete


class ParsedKey(NamedTuple):
    """The parts of a key. `generation` and `nonce` are None if Reelkeeper did not make the key.

    Then `user_id` and `video_id` are the names in the key, of which `ids.id_of` makes ids; `pattern` is the index in
    the layout of the pattern that matched, and `made_before` the end of the date in the key. `user_id` is None where
    the key does not say whose it is, as a key of ours with a hash in place of an id.
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
    nonce = secrets.token_hex(8)
    key = f"{prefix}{key_name(user_id)}/{key_name(video_id)}/g{generation}-{nonce}.{extension}"
    if not _OWN.fullmatch(confined(prefix, key)[len(prefix) :]):
        raise KeyRefused(
            f"no key can be made of generation {generation} and extension {extension!r}: generations begin at 1, "
            "extensions are 1 to 8 of a-z and 0-9"
        )
    return key


def key_name(name: str) -> str:
    """Return the segment of our keys for an id: itself where it is plain, else with its UTF-8 escaped, as `a=40b.de`.

    No two ids have the same: a plain id has no `=`, and what is longer than 200 bytes ends in `==` and a SHA-256.
    Raises KeyRefused for a text that is no id.
    """
    if wrong := ids.flaw(name):
        raise KeyRefused(f"no key can be made for the id {name[:MAX_KEY_BYTES]!r}: it {wrong}")
    if ids.PLAIN.fullmatch(name) and not name.endswith(".versions"):
        return name
    # guard ids.escaped: two users get one folder, and erasing one deletes what is left of the other's
    escaped = _ESCAPED.sub(lambda found: b"=%02X" % found[0][0], name.encode()).decode()
    if len(escaped) <= _MAX_NAME:
        return escaped
    slug = re.sub("[^A-Za-z0-9_-]+", "-", name)[:_SLUG]
    return f"{slug}{_HASHED}{hashlib.sha256(name.encode()).hexdigest()}"


def _named(name: str) -> str | None:
    """Return the id that a segment of our keys stands for; None for a hash. Raises ValueError if it stands for none."""
    if "=" not in name:
        return name
    if _HASHED in name:
        return None
    found = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), name.encode()).decode()
    if ids.flaw(found) or key_name(found) != name:
        raise ValueError(name)
    return found


def parse_key(prefix: str, key: str, layout: Sequence[KeyPattern] = DEFAULT_LAYOUT) -> ParsedKey | None:
    """Parse a key in our own format, or one that a pattern of `layout` matches; None for any other."""
    try:
        rest = confined(prefix, key)[len(prefix) :]
    except KeyRefused:
        return None
    if own := _OWN.fullmatch(rest):
        user_name, video_name, generation, nonce, extension = own.groups()
        with suppress(ValueError):  # a key of the service's, with signs of equality
            user_id, video_id = _named(user_name), _named(video_name)
            user_id = user_id if video_id else None
            return ParsedKey(user_id, video_id or video_name, int(generation), nonce, extension)
    if not has_video_extension(rest):
        return None
    for place, pattern in enumerate(layout):
        if parts := pattern.read(rest):
            extension = parts.extension.lower()
            return ParsedKey(parts.user, parts.video, None, None, extension, place, parts.made_before)
    return None


def names_beside(key: str) -> set[str]:
    """Return what the key of a video, without its extension, may be, if the object at `key` is an image of it."""
    name = key.rpartition(".")[0] or key
    return {name, IMAGE_SUFFIX.sub("", name)}


def has_video_extension(key: str) -> bool:
    """Check whether a key ends with the extension of a video."""
    return key.rpartition(".")[2].lower() in VIDEO_EXTENSIONS


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
    if any(unicodedata.category(character) in ids.CONTROL or character in _NOT_XML for character in key):
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
