"""Ids of users and videos: any text that a service has; and places in lists. Pure.

An id is kept as it is, in the store and at every front; only keys of ours escape it (`adapters/s3/keys`).
"""

import hashlib
import re
import unicodedata
from datetime import datetime
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, StringConstraints, WithJsonSchema

MAX_CHARACTERS: Final = 200
PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")  # without a character that needs care anywhere
CONTROL: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control, lone surrogates, line and paragraph separators
_LOST: Final = "\ufffd"  # stands for characters that could not be decoded, so that two ids may have become one
_EARLIER: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NOT_IN_AN_EARLIER_ID: Final = re.compile(r"[^A-Za-z0-9_-]+")
_SLUG: Final = 40  # characters that are kept of a name
HASH: Final = 12  # hex digits: 48 bits distinguish equal names
_MADE: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{_SLUG}}}-[0-9a-f]{{{HASH}}}")
_MAX_UNIQUE: Final = 128  # characters


def flaw(text: str) -> str | None:
    """Return why a text is not an id, as the rest of a sentence about it; None if it is one."""
    if PLAIN.fullmatch(text):
        return None
    if not text:
        return "is empty"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text):,} characters, more than {MAX_CHARACTERS}"
    # guard ids.printed: an id clears the terminal, or ends a line of a log
    if any(unicodedata.category(character) in CONTROL for character in text):
        return "contains a control character"
    # guard ids.ends: a space in a CSV file makes a second user of one
    if text != text.strip():
        return "begins or ends with white space"
    # guard ids.lost: two users become one whose ids were decoded wrongly
    return "contains U+FFFD, which stands for a character that was lost" if _LOST in text else None


def identifier(text: str) -> str:
    """Return an id unchanged. Raises ValueError that says what is wrong with it."""
    if wrong := flaw(text):
        raise ValueError(wrong)
    return text


# As a schema says it, for callers: white space at neither end, and no character of `flaw` in between.
_NOT: Final = r"\u0000-\u001f\u007f-\u009f\u2028\u2029\ufffd"
PATTERN: Final = rf"^[^\s{_NOT}]([^{_NOT}]*[^\s{_NOT}])?$"
_WRITTEN: Final = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS, "pattern": PATTERN}
Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_CHARACTERS),
    AfterValidator(identifier),
    WithJsonSchema(_WRITTEN),
]


def id_of(name: str, *owners: str) -> str:
    """Return `name` if it is an id, else one that is made of it, such as of a key's segment of 300 characters."""
    return earlier_id(name, *owners) if flaw(name) else name


def earlier_id(name: str, *owners: str) -> str:
    """Return what versions before 0.2 used as the id of `name`: itself, or its plain characters and a hash of it."""
    if _EARLIER.fullmatch(name) and not name.endswith(".versions"):
        return name
    slug = _NOT_IN_AN_EARLIER_ID.sub("-", name).strip("-")[:_SLUG]
    return f"{slug or 'x'}-{_digest(*owners, name)}"


def is_made(text: str) -> bool:
    """Return whether versions before 0.2 may have made this id of a name; others may look so, too."""
    return bool(_MADE.fullmatch(text))


def unique_id(video_id: str, user_id: str, name: str) -> str:
    """Return a video's id if another user also has `video_id`: from user and name, so it depends on no order."""
    return f"{video_id[: _MAX_UNIQUE - HASH - 1]}-{_digest(user_id, name)}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:HASH]


class Place(NamedTuple):
    """A row's place in a list that begins with the newest: its time, and its id among rows of the same time."""

    at: datetime
    id: str


class Span(NamedTuple):
    """The part of such a list to read: from `since` on, before `until`, and after a `place`; None: no end."""

    since: datetime | None = None
    until: datetime | None = None
    place: Place | None = None
