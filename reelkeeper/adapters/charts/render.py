"""Charts drawn: SVG for pages, PNG for where only pixels go. The same definition, whatever the theme and the width."""

import base64
from typing import Any, Final

import vl_convert

from reelkeeper.adapters.charts.parts import Picture
from reelkeeper.adapters.charts.theme import LIGHT, Theme

WIDE: Final = 760  # pixels, of a page or a message
NARROW: Final = 360  # of a phone held upright: the text stays as large
_HEIGHTS: Final = {WIDE: 360, NARROW: 360}
_PIXELS_PER_POINT: Final = 2.0  # sharp on the screens that people have


def svg(chart: Picture, theme: Theme = LIGHT, width: int = WIDE) -> str:
    """Draw `chart` as an SVG document of `width` pixels that loads nothing."""
    drawn: str = vl_convert.vegalite_to_svg(_spec(chart, theme, width), allowed_base_urls=[])
    return drawn


def data_uri(svg: str) -> str:
    """Give an SVG document as an address that holds it, for where a picture must come without a second file."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def png(chart: Picture, theme: Theme = LIGHT, width: int = WIDE) -> bytes:
    """Draw `chart` as a PNG, two pixels for each of `width`."""
    drawn: bytes = vl_convert.vegalite_to_png(_spec(chart, theme, width), scale=_PIXELS_PER_POINT, allowed_base_urls=[])
    return drawn


def _spec(chart: Picture, theme: Theme, width: int) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    spec.setdefault("height", _HEIGHTS.get(width, _HEIGHTS[WIDE]))
    fit = {"type": "fit", "contains": "padding"}
    return spec | {"width": width, "autosize": fit, "config": theme.config()}
