"""Random faults of a vendor in trouble, for the storm tests."""

import random

from tests.doubles.vendor import CUT, FAULT, HTML, LOST, Next

_SUBMITS: list[tuple[float, Next]] = [  # by chance, for each new job
    (0.10, LOST),
    (0.03, CUT),
    (0.03, FAULT),
    (0.08, (429, None, {"Retry-After": "1"})),
    (0.03, (503, None)),
]
_BAD_READS = 0.05
_FILES: list[tuple[float, Next]] = [(0.04, HTML), (0.04, CUT), (0.02, (404, None)), (0.02, (503, None))]


def draw(chance: random.Random, what: str, _path: str = "") -> Next | None:
    """Return the fault of a request, a "submit", a "read" or of a "file"; None: it is answered."""
    drawn = chance.random()
    if what == "read":
        return (502, b"<html>") if drawn < _BAD_READS else None
    for share, fault in _FILES if what == "file" else _SUBMITS:
        if (drawn := drawn - share) < 0:
            return fault
    return None
