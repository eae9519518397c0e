"""Print output for people and scripts: tables and figures, JSON, and errors on one line."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from operator import attrgetter
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid

from reelkeeper.errors import PartialFailure
from reelkeeper.model.document import Table, as_text
from reelkeeper.rules.core import wording

# Control characters but the line feed, and those that turn the direction of text (Unicode UAX 9).
_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
Cell = str | Callable[[Any], object]  # of a record in a list
_GAP = 2  # characters between two columns
_LEAST_FOLDED = 16  # characters, of a column that may be wrapped
_PIPED_WIDTH = 100  # characters, without a terminal


def _console(*, stderr: bool = False) -> Console:
    has_width = os.isatty(1) or "COLUMNS" in os.environ  # sys.stdout is None where it is closed
    return Console(stderr=stderr, width=None if has_width else _PIPED_WIDTH, highlight=False)


out = _console()
_errors = _console(stderr=True)


def complain(text: str) -> None:
    """Print an error unchanged, on stderr. Its first line says what is wrong."""
    _errors.print("[bold red]error:[/]", end=" ")
    _errors.print(_visible(text), markup=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a sentence without interpreting markup, since it may contain users' text."""
    with _answering():
        out.print(_visible(text), markup=False, soft_wrap=True)


def emit(value: object) -> None:
    """Print `value` as JSON, as the only output on stdout."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n"
    with _answering():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def _answering() -> Iterator[None]:
    """Raise PartialFailure where the answer cannot be written, as to a full disk. A reader that has left is no error.

    The command may have done its work by then.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    # guard accounts.answer_lost: credits are given again, as a full disk, which may pass, has taken the answer alone
    except OSError as error:
        problem = f"the answer could not be written: {error.strerror}. See what was done before you repeat it"
        raise PartialFailure(problem) from None


def respond(text: str, value: object, *, as_json: bool) -> None:
    """Print a sentence, or for scripts the same as JSON."""
    if as_json:
        emit(value)
    else:
        say(text)


def plain(value: Any) -> Any:  # noqa: ANN401, PLR0911  any value in, what JSON can say out; one return for each kind
    """Convert values to JSON: times in ISO 8601, money that is not an integer as text."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "_asdict"):  # a named tuple
        return plain(value._asdict())
    return [plain(item) for item in value] if isinstance(value, Iterable) else str(value)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print a table. A heading that begins with > marks a column of figures; one with ! must not be wrapped.

    Nothing is cut off: a table may become wider than the screen.
    """
    grid = Grid(title=title or None, title_justify="left", header_style="bold", pad_edge=False, box=None)
    cells, widths = [[_cell(value) for value in row] for row in rows], list[int]()
    for place, heading in enumerate(headings):
        right, text = heading.startswith(">"), heading.lstrip(">!")
        widest = max(cell_len(line) for cell in (text, *(row[place] for row in cells)) for line in cell.split("\n"))
        is_unbroken = right or heading[:1] == "!"
        widths.append(widest if is_unbroken else min(widest, _LEAST_FOLDED))
        grid.add_column(
            text, justify="right" if right else "left", no_wrap=is_unbroken, min_width=widths[-1], overflow="fold"
        )
    for row in cells:
        grid.add_row(*row)
    grid.width = max(Measurement.get(out, out.options, grid).maximum, sum(widths) + _GAP * (len(widths) - 1))
    with _answering():
        out.print(grid, crop=False)


def show(document: Iterable[str | Table]) -> None:
    """Print paragraphs and tables."""
    for part in document:
        if isinstance(part, str):
            say(part)
        else:
            table(part.headings, [*part.rows, *([part.total] if part.total else [])], title=part.title)


def listing(
    items: Sequence[object],
    headings: Sequence[str],
    cells: Sequence[Cell],
    *,
    as_json: bool,
    title: str = "",
    otherwise: str = "",
) -> None:
    """Print records as a table, or for scripts as JSON. `otherwise` is said where there are none.

    A cell is an attribute of the record, whose name says whether it counts bytes or micro-dollars, or a function of
    it; headings are as in `table`.
    """
    if as_json:
        emit(items)
    elif items or not otherwise:
        table(headings, [[_read(item, cell) for cell in cells] for item in items], title=title)
    else:
        say(otherwise)


def _read(item: object, cell: Cell) -> object:
    if not isinstance(cell, str):
        return cell(item)
    value = attrgetter(cell)(item)
    return size(value) if cell.endswith("_bytes") else dollars(value) if cell.endswith("_microusd") else value


def _cell(value: object) -> str:
    return _visible(as_text(value)).replace("[", r"\[")


def _visible(text: str) -> str:
    """Spell out the characters that a terminal obeys: a key of the bucket may clear the screen or hide a line."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def size(size_bytes: int | None) -> str:
    """Format bytes in a readable unit, or unknown bytes as a dash."""
    return "-" if size_bytes is None else wording.size(size_bytes)


def dollars(microusd: Decimal | float | None) -> str:
    """Format micro-dollars as dollars, or an unknown amount as a dash."""
    return "-" if microusd is None else wording.dollars(microusd)
