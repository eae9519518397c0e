"""Keys: the jail that keeps every request under the prefix, and the one shape in which Reelkeeper writes.

R2 takes almost any key, but folds Unicode to NFC; other S3 servers fold empty segments, backslashes, `.` and `..`, or
hide what lies under `.uploads`. A key that two servers read differently can name somebody else's object: refused.
"""

import re
import secrets
import unicodedata
from typing import NamedTuple

from reelkeeper.errors import KeyRefused

MAX_KEY_BYTES = 1024  # Cloudflare R2 "Limits" page: object key length, in UTF-8
IDENTITY = ".reelkeeper-identity.json"  # under the prefix, so that a token scoped to the prefix suffices
PROBE = ".reelkeeper-probe"  # what `reelkeeper doctor` tries the conditional put on
IMAGES = ".images/"  # under the prefix, input images by their digest: listed by nobody, so adopted and swept by none
CONTRACT = ".contract-"  # under the prefix, with a nonce: where `doctor --contract` tries the bucket; listed by nobody
VIDEO_EXTENSIONS = frozenset({"mp4", "webm", "mov", "mkv", "m4v"})

_ID = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
_OWN = re.compile(rf"({_ID})/({_ID})/g([1-9][0-9]{{0,8}})-([0-9a-f]{{16}})\.([a-z0-9]{{1,8}})", re.ASCII)
_ADOPTABLE = re.compile(rf"({_ID})/({_ID}?)(?:/[^/]+)?\.([A-Za-z0-9]{{1,8}})", re.ASCII)
_DULL = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*")  # nothing in it that any server could read differently
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control, lone surrogates, line and paragraph separators
_NOT_XML = frozenset({"\ufffe", "\uffff"})  # XML 1.0 cannot carry them, so neither can a batch delete


class ParsedKey(NamedTuple):
    """What a key says. `generation` and `nonce` are None where Reelkeeper did not make the key."""

    user_id: str
    video_id: str
    generation: int | None
    nonce: str | None
    extension: str


def blob_key(prefix: str, user_id: str, video_id: str, generation: int, extension: str) -> str:
    """Return a key that was never used before: it ends in 64 random bits. KeyRefused if a part is malformed."""
    key = f"{prefix}{user_id}/{video_id}/g{generation}-{secrets.token_hex(8)}.{extension}"
    parsed = parse_key(prefix, confined(prefix, key))
    if parsed is None or parsed[:3] != (user_id, video_id, generation) or parsed.extension != extension:
        raise KeyRefused(
            f"no key can be made for user {user_id!r}, video {video_id!r}, generation {generation}, extension "
            f"{extension!r}: ids match {_ID}, generations begin at 1, extensions are 1 to 8 of a-z and 0-9"
        )
    return key


def parse_key(prefix: str, key: str) -> ParsedKey | None:
    """Read a key of our own shape, or of one that can be adopted; None for any other.

    Adoptable, with a video extension: `{prefix}{user}/{video}.{ext}` and `{prefix}{user}/{video}/{anything}.{ext}`.
    """
    try:
        rest = confined(prefix, key)[len(prefix) :]
    except KeyRefused:
        return None
    if own := _OWN.fullmatch(rest):
        user_id, video_id, generation, nonce, extension = own.groups()
        return ParsedKey(user_id, video_id, int(generation), nonce, extension)
    foreign = _ADOPTABLE.fullmatch(rest)
    if foreign and foreign[3].lower() in VIDEO_EXTENSIONS:
        return ParsedKey(foreign[1], foreign[2], None, None, foreign[3].lower())
    return None


def confined(prefix: str, key: str) -> str:
    """Return `key` if it is well formed and lies under `prefix`; KeyRefused says what is wrong with it otherwise."""
    if not key.startswith(prefix) or len(key) == len(prefix):
        raise KeyRefused(f"key {key!r} is not under the prefix {prefix!r}: Reelkeeper touches nothing else")
    fault = flaw(key)
    if fault:
        raise KeyRefused(f"key {key!r} {fault}: servers disagree about which object that names; rename the object")
    return key


def flaw(key: str) -> str | None:  # noqa: PLR0911  one return for each thing that can be wrong
    """Say what is wrong with `key`, wherever it lies, or None."""
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
