"""Nouns of generation work. The unit of it is a job."""

from datetime import datetime
from typing import NamedTuple


class Job(NamedTuple):
    """A waiting job as the dispatch rule sees it."""

    id: str
    user_id: str
    tier: str | None  # None, or one that is not known: ordered as free
    submitted_at: datetime
    estimate_seconds: float
    model: str = ""
    prompt_characters: int = 0
