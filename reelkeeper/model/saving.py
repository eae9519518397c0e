"""Nouns of what was saved."""

from datetime import date
from typing import NamedTuple


class Freed(NamedTuple):
    """Bytes that purges freed on a UTC day, by the rule of the plan that let them go."""

    day: date
    rule: str  # replaced, grace_over, orphan, unfinished
    size_bytes: int


class Saved(NamedTuple):
    """What was not paid on a UTC day because of what had been freed before it. `kind` is in words."""

    day: date
    kind: str
    nanousd: int
