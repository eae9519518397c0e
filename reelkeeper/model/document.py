"""One document for screen, page and artifact: paragraphs and tables, which a renderer each shows in its own way.

Also what the reports of all flows have in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class Table(NamedTuple):
    """Rows under headings. A heading that begins with > is for figures; one with ! must not be wrapped.

    A cell may have details in further lines. `total` is the last row, if there is one.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    total: Sequence[object] = ()
    shares: Sequence[int] = ()  # of each row in the whole, in percent, for a bar


@dataclass(frozen=True, slots=True)
class RunReport:
    """Which run of which flow reports."""

    flow: str
    run_id: str
    dry_run: bool

    @property
    def title(self) -> str:
        """The title of what the run has to tell."""
        return f"{self.flow}, run {self.run_id[:8]}{' (dry run)' if self.dry_run else ''}"


def as_text(value: object) -> str:
    """Format a cell: unknown is a dash, a time is in UTC to the minute, a whole number has its thousands marked."""
    match value:
        case None:
            return "-"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case int() if not isinstance(value, bool):
            return f"{value:,}"
    return str(value)
