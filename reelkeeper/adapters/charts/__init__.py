"""Charts: one definition each, rendered as PNG or SVG, light or dark, wide or for a phone, without a browser.

A chart takes a DataFrame and contains no colours: the theme adds them when it is rendered. Only here are dollars
floats, since the precision of a pixel suffices.
"""

from reelkeeper.adapters.charts.forecast import forecast_fan
from reelkeeper.adapters.charts.parts import NARROW, WIDE, Picture, data_uri, png, svg, svgs
from reelkeeper.adapters.charts.spend import policies, spend
from reelkeeper.adapters.charts.storage import savings, storage
from reelkeeper.adapters.charts.theme import DARK, LIGHT, Theme

__all__ = [
    "DARK",
    "LIGHT",
    "NARROW",
    "WIDE",
    "Picture",
    "Theme",
    "data_uri",
    "forecast_fan",
    "png",
    "policies",
    "savings",
    "spend",
    "storage",
    "svg",
    "svgs",
]
