"""Patterns of keys: how the keys of a service's bucket contain the user, the video, and its date.

    {user}/{video}.{ext}    generations/{year}/{month}/{video}.{ext}    users/{user}/outputs/{video}.{ext}

A part stands for text within one segment of the key, except for the slash:

    {video}                 the video's name; each pattern has it
    {ext}                   1 to 8 letters and digits; each pattern ends in .{ext}
    {user}                  whose it is; a pattern without it needs `videos import --keys`
    {year} {month} {day}    when it was made: 2026, 01 or 1, 31; {month} needs {year}, {day} needs {month}
    {any}                   any text; the only part that may occur twice

A part that is followed by text ends at the first occurrence of that text, so `{user}-{video}.{ext}` takes `a` of
`a-b-c.mp4` as the user. {video} before `.{ext}` ends at the last dot. Names of users and videos never begin with a dot.
"""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple, Self

DEFAULT_PATTERNS: Final = ("{user}/{video}.{ext}", "{user}/{video}/{any}.{ext}")
VIDEO_EXTENSIONS: Final = frozenset({"mp4", "webm", "mov", "mkv", "m4v"})
PARTS: Final = ("user", "video", "ext", "year", "month", "day", "any")
_DATES: Final = {
    "year": "(?:19|20)[0-9]{2}",
    "month": "(?:0[1-9]|1[0-2]|[1-9])",
    "day": "(?:0[1-9]|[12][0-9]|3[01]|[1-9])",
}
_TWO_DIGITS: Final = {"month": "(?:0[1-9]|1[0-2])", "day": "(?:0[1-9]|[12][0-9]|3[01])"}
_EXT: Final = "[A-Za-z0-9]{1,8}"
_END: Final = ".{ext}"
_TOKEN: Final = re.compile(r"\{([^{}]*)\}|([^{}]+)|([{}])")
_DECEMBER: Final = 12
_LATEST_ZONE: Final = timedelta(hours=12)  # behind UTC: the last place on Earth where a day ends


class KeyParts(NamedTuple):
    """The parts parsed from a key. `made_before`: by the date in the key, it was made before that moment."""

    user: str | None
    video: str
    extension: str
    made_before: datetime | None

    @property
    def last_day(self) -> date | None:
        """The last day of the date in the key; None without one."""
        return self.made_before and (self.made_before - _LATEST_ZONE - timedelta.resolution).date()


class KeyPattern(NamedTuple):
    """A pattern as written, and its expression for keys under the prefix."""

    text: str
    regex: re.Pattern[str]

    @classmethod
    def of(cls, text: str) -> Self:
        """Parse a pattern. Raises ValueError that names it and says what is wrong with it."""
        try:
            return cls(text, _compiled(text))
        except ValueError as error:
            raise ValueError(f"pattern {text!r} {error}") from None

    def has(self, part: str) -> bool:
        """Check whether a part, such as `user`, is in it."""
        return part in self.regex.groupindex

    @property
    def before_user(self) -> str | None:
        """Return what stands before the user's folder in each key, "" for nothing; None where that is not known."""
        before, folder, _ = self.text.partition("{user}/")
        return before if folder and "{" not in before else None

    def read(self, rest: str) -> KeyParts | None:
        """Parse a key without its prefix; None if the pattern does not match all of it."""
        found = self.regex.fullmatch(rest)
        if found is None:
            return None
        parts = found.groupdict()
        made_before = _made_before(*(parts.get(name) for name in _DATES))
        return KeyParts(parts.get("user"), parts["video"], parts["ext"], made_before)


def compiled(patterns: Sequence[str]) -> tuple[KeyPattern, ...]:
    """Parse patterns, of which the first that matches a key wins. Raises ValueError for a malformed or repeated one."""
    if not patterns:
        raise ValueError("there must be at least one pattern")
    if len(set(patterns)) < len(patterns):
        raise ValueError("a pattern is named twice")
    return tuple(map(KeyPattern.of, patterns))


def _compiled(text: str) -> re.Pattern[str]:
    tokens = [(part, literal, stray) for part, literal, stray in _TOKEN.findall(text)]
    named = [part for part, literal, stray in tokens if not literal and not stray]
    if any(stray for *_, stray in tokens):
        raise ValueError("has a brace that does not belong to a part")
    if unknown := [part for part in named if part not in PARTS]:
        raise ValueError(
            f"has the unknown part {{{unknown[0]}}}; there are {', '.join(f'{{{item}}}' for item in PARTS)}"
        )
    if twice := [part for part in PARTS if part != "any" and named.count(part) > 1]:
        raise ValueError(f"has the part {{{twice[0]}}} twice")
    if "video" not in named:
        raise ValueError("has no {video}, so it cannot say which video a key is of")
    if not text.endswith(_END):
        raise ValueError(f"does not end in {_END}, as the keys of videos do")
    for part, needed in (("month", "year"), ("day", "month")):
        if part in named and needed not in named:
            raise ValueError(f"has {{{part}}} without {{{needed}}}, which is no date")
    literals = [literal for _, literal, _ in tokens]
    if (
        text.startswith("/")
        or "//" in text
        or any(not literal.isprintable() or "\\" in literal for literal in literals)
    ):
        raise ValueError("has an empty segment, a backslash or a control character, which no key of a video has")
    return re.compile("".join(_expression(tokens, place) for place in range(len(tokens))), re.ASCII)


def _expression(tokens: Sequence[tuple[str, str, str]], place: int) -> str:
    part, literal, _ = tokens[place]
    if literal:
        return re.escape(literal)
    before = tokens[place - 1][0] if place else ""
    after, following = tokens[place + 1][:2] if place + 1 < len(tokens) else ("", "")
    if part == "ext":
        return f"(?P<ext>{_EXT})"
    if part in _DATES:
        touching = {before, after} & set(_DATES)
        return f"(?P<{part}>{(_TWO_DIGITS if touching else {}).get(part, _DATES[part])})"
    if after:
        raise ValueError(f"has nothing between {{{part}}} and {{{after}}}, so nothing says where one ends")
    last = place + 3 == len(tokens) and following == "."
    free = "[^/]" if last or following.startswith("/") else f"(?:(?!{re.escape(following.split('/')[0])})[^/])"
    return f"{free}+" if part == "any" else rf"(?P<{part}>(?!\.){free}+)"


def _made_before(year: str | None, month: str | None, day: str | None) -> datetime | None:
    """Give the first moment after the date, wherever on Earth it was written; February 30 ends with February."""
    if year is None:
        return None
    if month is None:
        end = datetime(int(year) + 1, 1, 1, tzinfo=UTC)
    else:
        end = datetime(int(year) + int(month) // _DECEMBER, int(month) % _DECEMBER + 1, 1, tzinfo=UTC)
        if day is not None:
            first = datetime(int(year), int(month), 1, tzinfo=UTC)
            end = min(end, first + timedelta(days=int(day)))
    return end + _LATEST_ZONE
