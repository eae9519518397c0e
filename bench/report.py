"""The results of a benchmark, as rows of a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich import box
from rich.table import Table

_PEERS: Final = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"


class MissingPeersError(Exception):
    """The environment with the public series and the peers is missing."""


def peers_python() -> Path:
    """Return the Python interpreter with the public series and the peer libraries. Raises MissingPeersError."""
    if not _PEERS.exists():
        raise MissingPeersError(".venv-peers is missing: run `make .venv-peers/.installed` or `make bench`")
    return _PEERS


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison in one run on one machine. `floor` is a bare implementation, a peer, or the limit itself.

    `ratio` is ours to the floor, smaller is better; `limit` is the promised ratio, None for a figure that is only
    informative.
    """

    what: str
    ours: float
    floor: float
    ratio: float
    limit: float | None
    unit: str = "s"

    @property
    def verdict(self) -> str:
        """Return "ok", "over", or an empty text without a limit. A ratio that is not a number is over."""
        if self.limit is None:
            return ""
        return "ok" if self.ratio <= self.limit else "over"


def table(title: str, rows: Iterable[Row]) -> Table:
    """Format the rows of one benchmark as a table."""
    laid = Table("what", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("ours", "floor", "ratio", "limit"):
        laid.add_column(heading, justify="right")
    laid.add_column("verdict")
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:.2f}x"
        style = {"over": "bold red", "ok": "green"}.get(row.verdict, "")
        verdict = f"[{style}]{row.verdict}[/]" if style else ""
        laid.add_row(row.what, _amount(row.ours, row), _amount(row.floor, row), f"{row.ratio:.2f}x", limit, verdict)
    return laid


def _amount(value: float, row: Row) -> str:
    digits = ".0f" if abs(value) >= 100 else ".3g"  # noqa: PLR2004  three digits are enough to compare
    return f"{value:,{digits}} {row.unit}"
