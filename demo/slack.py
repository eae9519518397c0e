"""A message as Slack would show it, drawn in the terminal from the very blocks that Slack would be sent."""

from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from reelkeeper.adapters.slack.blocks import lay_out
from reelkeeper.model.alerts import Message, Severity

_COLOURS = {Severity.CRITICAL: "red", Severity.WARNING: "yellow", Severity.NOTICE: "blue"}
_WIDTH = 88


def drawn(message: Message) -> RenderableType:
    """Give the message as a panel; its text is text, whatever stands in it."""
    parts = [part for block in lay_out(message).blocks for part in _block(block)]
    colour = _COLOURS[message.severity] if message.severity else "blue"
    return Panel(
        Group(*parts), title="[bold]# costs[/]  Reelkeeper", title_align="left", border_style=colour, width=_WIDTH
    )


def _block(block: dict[str, Any]) -> list[RenderableType]:
    match block:
        case {"type": "header", "text": {"text": text}}:
            return [Text(text, style="bold")]
        case {"type": "section", "text": {"text": text}}:
            return [Padding(Text(text), (1, 0, 0, 0))]
        case {"type": "section", "fields": fields}:
            grid = Table.grid(padding=(0, 4, 0, 0))
            cells = [Text(field["text"]) for field in fields]
            for cell in cells:
                cell.highlight_regex(r"^.*\n", "dim")
            for start in range(0, len(cells), 2):
                grid.add_row(*cells[start : start + 2])
            return [Padding(grid, (1, 0, 0, 0))]
        case {"type": "context", "elements": elements}:
            return [Padding(Text(" ".join(element["text"] for element in elements), style="dim"), (1, 0, 0, 0))]
    return []
