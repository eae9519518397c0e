"""Models of human vision: contrast by WCAG 2.2, and colour distance with full and dichromatic vision."""

import math
from typing import Final

Rgb = tuple[float, float, float]
Matrix = tuple[Rgb, Rgb, Rgb]

# Machado, Oliveira and Fernandes 2009, severity 1.0, over linear RGB.
SIGHTS: Final[dict[str, Matrix]] = {
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
# Ottosson 2020: linear RGB to cone responses, and their cube roots to OKLab.
_CONES: Final[Matrix] = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_LAB: Final[Matrix] = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def contrast(text: str, other: str) -> float:
    """Return WCAG's contrast ratio of two colours, #rrggbb: 4.5 for text, 3 for what is drawn."""
    dark, light = sorted(
        0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in map(_linear, (text, other))
    )
    return (light + 0.05) / (dark + 0.05)


def apart(text: str, other: str, sight: str) -> float:
    """Return the distance of two colours in OKLab, times 100, as somebody with that sight sees them."""
    first, second = (_oklab(_times(SIGHTS[sight], _linear(colour))) for colour in (text, other))
    return 100 * math.dist(first, second)


def _linear(colour: str) -> Rgb:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return _decoded(red), _decoded(green), _decoded(blue)


def _decoded(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _oklab(linear: Rgb) -> Rgb:
    cones = _times(_CONES, tuple(min(1.0, max(0.0, value)) for value in linear))  # type: ignore[arg-type]  # three of three
    return _times(_LAB, (math.cbrt(cones[0]), math.cbrt(cones[1]), math.cbrt(cones[2])))


def _times(matrix: Matrix, value: Rgb) -> Rgb:
    first, second, third = (sum(row[place] * value[place] for place in range(3)) for row in matrix)
    return first, second, third
