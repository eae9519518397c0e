"""Build and render parts of charts: axis units, days as Vega reads them, limit lines, and text for empty charts.

Pages embed SVG, messages PNG; one definition serves both, in any theme and width.
"""

import base64
from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import Any, Final, Literal

import altair as alt
import pandas as pd
import vl_convert

from reelkeeper.adapters.charts.theme import LIGHT, TIERS, Theme

WIDE: Final = 760  # pixels, of a page or a message
NARROW: Final = 360  # of a phone held upright; the text keeps its size
_HEIGHTS: Final = {WIDE: 360, NARROW: 360}
_PIXELS_PER_POINT: Final = 2.0  # pixels per point, sharp on common screens

_UNITS: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (1000, "kB"), (1, "B"))
_MONTHLY: Final = pd.Timedelta(days=20)  # points further apart than this are months
_MONTH_LABEL: Final = (
    "utcmonth(datum.value) == 0 || datum.index == 0"
    " ? [utcFormat(datum.value, '%b'), utcFormat(datum.value, '%Y')] : utcFormat(datum.value, '%b')"
)
_PHONE_CHARACTERS: Final = 40  # a line of a chart without data, at 16 pixels
ON_A_PHONE: Final = "width < 500"  # an expression of Vega's: the inner width of the picture, in pixels
ROOM: Final = 1.12  # of an axis above its highest value, for what is written there

Picture = alt.Chart | alt.LayerChart | alt.FacetChart  # the type that Altair declares for a layer
Align = Literal["left", "center", "right"]


def nothing(text: str, title: str = "") -> Picture:
    """Draw an empty chart with a text that says why."""
    lines = pd.DataFrame({"text": [wrap(text, _PHONE_CHARACTERS)]})
    blank = alt.Chart(lines).mark_text(style="note", fontSize=16, baseline="middle")
    drawn: Picture = blank.encode(text="text:N").properties(height=140, title=title)
    return drawn


def as_days(days: Iterable[object]) -> list[str]:
    """Format days as YYYY-MM-DD, which Vega reads as UTC in any time zone of this machine."""
    return [f"{pd.Timestamp(day):%Y-%m-%d}" for day in days]  # type: ignore[arg-type]  # whatever pandas takes


def money_format(most: float) -> str:
    """Return the d3 format of dollars for an axis up to `most`, with enough digits to distinguish its ticks."""
    if most >= 5:  # noqa: PLR2004  ticks of whole dollars
        return "$,.0f"
    digits = 2
    while most < 10.0**-digits * 5 and digits < 6:  # noqa: PLR2004  micro-dollars
        digits += 1
    return f"$.{digits}f"


def money(usd: float) -> str:
    """Format an amount for a label, with cents only for small amounts."""
    if abs(usd) >= 100 or usd == round(usd):  # noqa: PLR2004  three digits say enough
        return f"${usd:,.0f}"
    digits = 2
    while abs(usd) < 10.0**-digits and digits < 6:  # noqa: PLR2004  micro-dollars
        digits += 1
    return f"${usd:,.{digits}f}"


def unit(most_bytes: float) -> tuple[int, str]:
    """Choose the unit of an axis up to `most_bytes`; return its bytes and its name."""
    return next((scale, name) for scale, name in _UNITS if most_bytes >= scale or scale == 1)


def written(
    points: pd.DataFrame, style: str, x: alt.X | None = None, *, align: Align = "center", dx: int = 0, dy: int = -9
) -> Picture:
    """Write the column `text` at `usd`, with a halo for contrast. Without `x`, it is at the left."""
    at = alt.value(4) if x is None else x
    marks = alt.Chart(points).encode(x=at, y="usd:Q", text="text:N")
    return alt.layer(
        marks.mark_text(style="halo", align=align, dx=dx, dy=dy),
        marks.mark_text(style=style, align=align, dx=dx, dy=dy),
    )


def limit_line(usd: float, text: str) -> Picture:
    """Draw a dashed line at `usd`, labelled at the left."""
    line = alt.Chart(pd.DataFrame({"usd": [usd]})).mark_rule(style="limit").encode(y="usd:Q")
    return alt.layer(line, written(pd.DataFrame({"usd": [usd], "text": [text]}), "limit-label", align="left"))


def usd_axis(most: float, least: float = 0.0, *, stacked: bool = False) -> alt.Y:
    """Return the axis of dollars from zero, or a negative amount, to `most`."""
    axis = alt.Axis(format=money_format(most), title=None, tickCount=5)
    return (
        alt.Y("usd:Q", stack="zero" if stacked else None).scale(domain=[min(least, 0.0), most], nice=False).axis(axis)
    )


def time_axis(days: Iterable[str]) -> alt.X:
    """Return a continuous axis of days, or of months if the points are months apart."""
    stamps = pd.Series(pd.to_datetime(sorted(set(days))))
    axis = alt.Axis(format="%-d %b", title=None, tickCount=alt.ExprRef(f"{ON_A_PHONE} ? 4 : 8"))
    if len(stamps) > 1 and stamps.diff().median() > _MONTHLY:
        axis = alt.Axis(labelExpr=_MONTH_LABEL, values=as_days(stamps), title=None)
    return alt.X("day:T").scale(type="utc").axis(axis)


def svg(chart: Picture, theme: Theme = LIGHT, width: int = WIDE) -> str:
    """Render `chart` as a self-contained SVG document of `width` pixels."""
    return next(svgs(chart, [(theme, width)]))


def svgs(chart: Picture, looks: Iterable[tuple[Theme, int]]) -> Iterator[str]:
    """Render `chart` in each of these themes and widths, as `svg` does."""
    spec = chart.to_dict()  # half of the time of a picture
    for theme, width in looks:
        drawn: str = vl_convert.vegalite_to_svg(_fitted(spec, theme, width), allowed_base_urls=[])
        yield drawn


def data_uri(svg: str) -> str:
    """Encode an SVG document as a data URL, for pages that embed their pictures."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def png(chart: Picture, theme: Theme = LIGHT, width: int = WIDE) -> bytes:
    """Render `chart` as a PNG of twice `width` pixels."""
    drawn: bytes = vl_convert.vegalite_to_png(
        _fitted(chart.to_dict(), theme, width), scale=_PIXELS_PER_POINT, allowed_base_urls=[]
    )
    return drawn


def _fitted(spec: dict[str, Any], theme: Theme, width: int) -> dict[str, Any]:
    fit = {"type": "fit", "contains": "padding"}
    sized = {"height": _HEIGHTS.get(width, _HEIGHTS[WIDE])} | spec | {"width": width, "autosize": fit}
    return sized | {"config": theme.config(spec.get("usermeta", {}).get(TIERS))}
