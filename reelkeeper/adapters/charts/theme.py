"""Colours and fonts, light and dark, as a Vega-Lite configuration: charts use styles that are defined here.

The six colours of services stay apart by 12 or more (100 x Delta-E in OKLab) for every pair, as seen with full colour
vision and with protanopia, deuteranopia and tritanopia (Machado, Oliveira and Fernandes 2009). A test counts it anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

FONT: Final = "Liberation Sans, Arial, Helvetica, sans-serif"  # vl-convert has the first, a browser one of them
TIERS: Final = "tiers"  # key in a chart's usermeta: the number of tiers that it has colours for
SERVICES: Final = (
    "compute",
    "api",
    "r2-storage",
    "r2-class-a",
    "r2-class-b",
    "r2-retrieval",
)  # in order of the colours


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of one look, as #rrggbb."""

    name: str
    surface: str
    ink: str
    soft_ink: str  # axes and notes
    grid: str
    limit: str  # budgets, and amounts over them
    line: str
    services: tuple[str, ...]  # one for each of SERVICES, the last for any other
    tiers: tuple[str, ...]  # three, from the cheapest tier, others are interpolated; then that of no tier
    bands: tuple[str, ...]  # 95 %, 80 %
    savings: tuple[str, ...]  # by kind of saving

    def config(self, tiers: int | None = None) -> dict[str, Any]:
        """Build Vega-Lite's configuration, with a colour for each of `tiers` tiers; None: the three shipped."""
        axis = {
            "labelColor": self.soft_ink,
            "labelFontSize": 13,
            "titleColor": self.soft_ink,
            "titleFontSize": 13,
            "titleFontWeight": "normal",
            "domainColor": self.grid,
            "tickColor": self.grid,
            "gridColor": self.grid,
        }
        return {
            "background": self.surface,
            "font": FONT,
            "aria": False,  # the page adds one text for the picture; Vega would add one per mark, in local time
            "padding": 14,
            "view": {"stroke": None},
            "axis": axis,
            "axisX": {"grid": False, "labelPadding": 6},
            "axisY": {"domain": False, "ticks": False, "labelPadding": 8},
            "title": {
                "anchor": "start",
                "color": self.ink,
                "fontSize": 19,
                "subtitleColor": self.soft_ink,
                "subtitleFontSize": 14,
                "subtitlePadding": 6,
                "offset": 16,
            },
            "legend": {
                "orient": "top",
                "title": None,
                "labelColor": self.ink,
                "labelFontSize": 13,
                "symbolType": "square",
                "symbolSize": 120,
                "symbolStrokeWidth": 0,
                "columnPadding": 28,  # a reader's font is wider than the one that this was measured with
                "rowPadding": 4,
                "offset": 14,
            },
            "range": {  # the only names that Vega-Lite knows
                "category": [*self.services],
                "ordinal": [*_shades(self.tiers[:-1], tiers or len(self.tiers) - 1), self.tiers[-1]],
                "ramp": [*self.bands],
                "heatmap": [*self.savings],
            },
            "style": self._styles(),
        }

    def _styles(self) -> dict[str, dict[str, Any]]:
        """Define the styles of the charts, so that marks with the same meaning look alike."""
        text = {"fontSize": 13, "fontWeight": "bold"}
        return {
            "piece": {"stroke": self.surface, "strokeWidth": 0.8},  # of a stack: a gap separates the parts
            "limit": {"color": self.limit, "strokeWidth": 1.5, "strokeDash": [6, 4]},
            "limit-label": {**text, "color": self.limit},
            "label": {**text, "color": self.ink},
            "note": {"fontSize": 13, "color": self.soft_ink},
            "halo": {**text, "color": self.surface, "stroke": self.surface, "strokeWidth": 5, "strokeJoin": "round"},
            "known": {"color": self.line, "strokeWidth": 2.5, "strokeCap": "round"},
            "expected": {"color": self.line, "strokeWidth": 2.5, "strokeDash": [2, 5], "strokeCap": "round"},
            "spot": {"color": self.line, "filled": True, "size": 90, "opacity": 1},
        }


def _shades(colours: Sequence[str], count: int) -> list[str]:
    """Interpolate `count` colours along `colours`, from the first to the last."""
    if count == 1:
        return [colours[-1]]
    shades = []
    for place in range(count):
        step, share = divmod(place * (len(colours) - 1), count - 1)
        ends = colours[step], colours[min(step + 1, len(colours) - 1)]
        lower, upper = ([int(colour[start : start + 2], 16) for start in (1, 3, 5)] for colour in ends)
        mixed = (round(low + (high - low) * share / (count - 1)) for low, high in zip(lower, upper, strict=True))
        shades.append("#" + "".join(f"{channel:02x}" for channel in mixed))
    return shades


LIGHT: Final = Theme(
    name="light",
    surface="#ffffff",
    ink="#16181d",
    soft_ink="#5a6270",
    grid="#e4e7ec",
    limit="#c62f3d",
    line="#2f5fa8",
    services=("#457dbd", "#e8912a", "#7127e7", "#23b0c4", "#1a5a1f", "#d6446e", "#868d99"),
    tiers=("#b9d3f0", "#5c93d1", "#1f4f91", "#9aa1ac"),
    bands=("#dce8f6", "#b3cfee"),
    savings=("#14805a", "#63bb94", "#b4dfca"),
)
DARK: Final = Theme(
    name="dark",
    surface="#161a22",
    ink="#f1f3f7",
    soft_ink="#a4adbb",
    grid="#2b313d",
    limit="#ff7a82",
    line="#7fb2f5",
    services=("#5b9bf2", "#f0a23a", "#8853e1", "#5fd3e6", "#218a2b", "#e06081", "#8b93a1"),
    tiers=("#2d5489", "#4f8ad6", "#a9cdf7", "#6d7583"),
    bands=("#22344f", "#34568a"),
    savings=("#2f9e73", "#86d3b0", "#1f5a45"),
)
