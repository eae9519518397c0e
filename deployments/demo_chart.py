"""A month of days as bars in a terminal: what was spent, and below what line it was to stay."""

from collections.abc import Mapping
from datetime import date

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ROWS = 8
_COLUMN = 2  # characters for each day, one of them a gap


def bars(daily: Mapping[date, float], limit: float | None = None) -> list[str]:
    """Draw dollars of days in a row, with a line at `limit` where no bar is in its way, and the days below."""
    if not daily:
        return ["no day is known"]
    days = sorted(daily)
    most = max(*daily.values(), limit or 0.0, 0.01)
    heights = [round(max(daily[day], 0.0) / most * _ROWS * 8) for day in days]
    at = None if limit is None else min(round(limit / most * _ROWS * 8 + 3) // 8, _ROWS - 1)
    lines = []
    for row in range(_ROWS - 1, -1, -1):
        cells = (_EIGHTHS[max(0, min(8, height - row * 8))] for height in heights)
        fill = "╌" if row == at else " "
        drawn = "".join((cell if cell != " " else fill) + fill for cell in cells)
        label = f"${most:,.2f}" if row == _ROWS - 1 else f"${limit:,.2f}" if row == at else ""
        lines.append(f"{label:>9} {drawn.rstrip() if row != at else drawn}")
    marks = "".join(f"{day.day:<{_COLUMN * 5}}" for day in days[::5])
    return [*lines, f"{'':>9} {marks.rstrip()}"]
