"""Globs of keys: `*` stands for any text, slashes too, `?` for one character, everything else for itself.

    drafts/*        *.webm        videos/ann/*/g1-*.mp4

A glob is compared with the whole key, as the bucket lists it. Matching takes time in proportion to the key, whatever
the glob: each text after a `*` is matched at its first occurrence, without backtracking.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

MAX_CHARACTERS: Final = 200
_ANY_TEXT, _ANY_ONE = "\0", "\1"  # what stands for `*` and `?` of another glob; no glob and no key holds them


def require_glob(glob: str) -> str:
    """Return a valid glob. Raises ValueError for one that is empty, too long, or that no key could match."""
    if not 0 < len(glob) <= MAX_CHARACTERS:
        raise ValueError(f"a glob of keys has 1 to {MAX_CHARACTERS} characters, and this has {len(glob)}")
    if not glob.isprintable() or "\\" in glob or "//" in glob or glob.startswith("/"):
        raise ValueError(
            f"glob {glob!r} has an empty segment, a backslash or a control character, which no key of a video has"
        )
    if not glob.replace("*", ""):
        raise ValueError(f"glob {glob!r} matches every key, so it says nothing: leave it out")
    return glob


def matcher(globs: Sequence[str]) -> Callable[[str], object]:
    """Make a function that returns a true value for a key that matches one of the globs."""
    if len(globs) == 1 and "?" not in globs[0] and globs[0].count("*") <= 1:
        return _plain(*globs[0].split("*"))
    alternatives = "|".join(f"(?:{_expression(*glob.split('*'), one='.')})" for glob in globs)
    return re.compile(alternatives, re.DOTALL).fullmatch


def covers(wide: str, narrow: str) -> bool:
    """Check whether each key that matches `narrow` certainly matches `wide`."""
    written = narrow.replace("*", _ANY_TEXT).replace("?", _ANY_ONE)
    return (
        wide == narrow
        or re.fullmatch(_expression(*wide.split("*"), one=f"[^{_ANY_TEXT}]"), written, re.DOTALL) is not None
    )


def never_meet(one: str, other: str) -> bool:
    """Check whether certainly no key matches both: they begin, or end, differently."""
    (head, tail), (other_head, other_tail) = ends(one), ends(other)
    if not (head.startswith(other_head) or other_head.startswith(head)):
        return True
    return not (tail.endswith(other_tail) or other_tail.endswith(tail))


def ends(glob: str) -> tuple[str, str]:
    """Give the fixed beginning and end of all keys that match."""
    return re.split(r"[*?]", glob, maxsplit=1)[0], re.split(r"[*?]", glob)[-1]


def _plain(head: str, *rest: str) -> Callable[[str], object]:
    if not rest:
        return head.__eq__
    (tail,) = rest
    if not tail:
        return lambda key: key.startswith(head)
    if not head:
        return lambda key: key.endswith(tail)
    shortest = len(head) + len(tail)
    return lambda key: len(key) >= shortest and key.startswith(head) and key.endswith(tail)


def _expression(head: str, *rest: str, one: str) -> str:
    """Build a regular expression without backtracking: text after a `*` matches once, the last one at the key's end."""

    def literal(text: str) -> str:
        return one.join(map(re.escape, text.split("?")))

    if not rest:
        return literal(head)
    *middle, last = rest
    return literal(head) + "".join(f"(?>.*?{literal(text)})" for text in middle if text) + f".*{literal(last)}"
