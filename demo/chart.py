"""A month of days as bars in a terminal: what was spent, what is expected, and below what line it was to stay."""

from collections.abc import Mapping
from datetime import date

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_EXPECTED = " ░"
_ROWS = 8
_COLUMN = 2  # characters for each day, one of them a gap


def bars(
    daily: Mapping[date, float], limit: float | None = None, expected: Mapping[date, float] | None = None
) -> list[str]:
    """Draw dollars of days in a row, with a line at `limit` where no bar is in its way, and the days below.

    Days of `expected` follow those of `daily`, and are drawn lighter.
    """
    days = {**(expected or {}), **daily}
    if not days:
        return ["no day is known"]
    most = max(*days.values(), limit or 0.0, 0.01)
    heights = {day: round(max(days[day], 0.0) / most * _ROWS * 8) for day in sorted(days)}
    at = None if limit is None else min(round(limit / most * _ROWS * 8 + 3) // 8, _ROWS - 1)
    lines = []
    for row in range(_ROWS - 1, -1, -1):
        fill = "╌" if row == at else " "
        cells = (_cell(height - row * 8, known=day in daily) for day, height in heights.items())
        drawn = "".join((fill if cell == " " else cell) + fill for cell in cells)
        label = f"${most:,.2f}" if row == _ROWS - 1 else f"${limit:,.2f}" if row == at else ""
        lines.append(f"{label:>9} {drawn}".rstrip())
    marks = "".join(f"{day.day:<{_COLUMN * 5}}" for day in list(heights)[::5])
    return [*lines, f"{'':>9} {marks.rstrip()}"]


def _cell(eighths: int, *, known: bool) -> str:
    filled = max(0, min(8, eighths))
    return _EIGHTHS[filled] if known else _EXPECTED[filled >= 4]  # noqa: PLR2004  half a cell or more
