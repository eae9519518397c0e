"""Read the lines of a CSV file as values, or as problems that name line, column and value."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from reelkeeper.model.requests import TAG_PATTERN, made_at

_TAG = re.compile(TAG_PATTERN)
_MAX_VIEWS = 2**31 - 1  # what the column holds on PostgreSQL

Columns = Mapping[str, Callable[[str], Any]]


class CsvLine(NamedTuple):
    """A valid line, with its number in the file."""

    number: int
    values: dict[str, Any]


class Problem(NamedTuple):
    """An invalid field."""

    line: int
    column: str
    value: str
    why: str

    def __str__(self) -> str:
        """Describe the problem, such as `line 7, column day: '2026-13-01' is not a date`."""
        where = f"line {self.line}, column {self.column}" if self.line else f"column {self.column}"
        return f"{where}: {self.value[:100]!r} {self.why}"


def whole_lines(
    lines: Iterable[str], columns: Columns, once: Sequence[str] = (), optional: Columns | None = None
) -> Iterator[CsvLine | Problem]:
    """Read `lines` field by field; the first names the columns. Unknown columns are ignored.

    The values of the columns `once`, taken together, may be in one line only: a second line is a Problem.
    """
    seen: set[int] = set()
    reader = csv.DictReader(lines, strict=True)
    try:
        found = reader.fieldnames or ()
        if missing := [name for name in columns if name not in found]:
            yield from (Problem(1, name, ",".join(found), "lacks this column") for name in missing)
            return
        wanted = {**columns, **{name: parse for name, parse in (optional or {}).items() if name in found}}
        for row in reader:
            for item in _fields(reader.line_num, row, wanted):
                if once and isinstance(item, CsvLine):
                    fingerprint = hash(tuple(item.values[name] for name in once))
                    # guard imports.once: of two contradictory lines, such as on a user's tier, the last one wins
                    if fingerprint in seen:
                        why = "is named twice" + "".join(f" on this {name}" for name in once[1:])
                        yield Problem(reader.line_num, once[0], row[once[0]], why)
                        continue
                    seen.add(fingerprint)
                yield item
    except csv.Error as error:
        yield Problem(reader.line_num, "all", "", f"is not CSV: {error}")


def _fields(number: int, row: Mapping[str | None, Any], wanted: Columns) -> Iterator[CsvLine | Problem]:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    if None in row:
        problems.append(Problem(number, "all", "", "has more fields than the first line: is a comma not quoted?"))
    for name, parse in wanted.items():
        text = row[name] or ""
        text = text if name.endswith("id") else text.strip()  # an id is taken as it is, or refused
        try:
            values[name] = parse(text)
        except ValueError as error:
            problems.append(Problem(number, name, text, str(error)))
    if problems:
        yield from problems
    else:
        yield CsvLine(number, values)


def moment(text: str) -> datetime | None:
    """Read a time with a zone, or nothing."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        in_utc = at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not an ISO 8601 time") from None
    if at.tzinfo is None:
        raise ValueError("has no time zone; write 2026-01-31T12:00:00Z")
    return in_utc


def created(text: str) -> datetime | None:
    """Read the time when a video was made, with a zone, or nothing."""
    at = moment(text)
    return at and made_at(at)


def day(text: str) -> date:
    """Read a day."""
    try:
        found = date.fromisoformat(text)
        found + timedelta(days=1)  # its end must be a date, too
    except (ValueError, OverflowError):
        raise ValueError("is not a date; write 2026-01-31") from None
    return found


def tag(text: str) -> str | None:
    """Read a video's tag, or none."""
    if text and not _TAG.fullmatch(text):
        raise ValueError(
            "is not a valid tag: up to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        )
    return text or None


def views(text: str) -> int:
    """Read a number of views."""
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or int(text) > _MAX_VIEWS:
        raise ValueError(f"is not a number of views from 0 to {_MAX_VIEWS:,}")
    return int(text)
