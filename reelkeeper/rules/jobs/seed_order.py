"""The order of the first sketch, by points: kept to be compared with, and to be chosen. Pure."""

from datetime import datetime
from typing import Final

from reelkeeper.model import Tier
from reelkeeper.model.jobs import Job

_TIER_POINTS: Final = {str(Tier.PREMIUM): 100, str(Tier.PRO): 200}
_SECONDS_PER_POINT: Final = 60  # of waiting
_CHARACTERS_PER_POINT: Final = 100  # of the prompt


def points(job: Job, prompt_points: int, as_of: datetime) -> tuple[int, int, float]:
    """Give a job's points for its tier, its wait and its prompt, of which a long one gives at most `prompt_points`."""
    tier = _TIER_POINTS.get(job.tier or "", 0)
    wait = int((as_of - job.submitted_at).total_seconds() // _SECONDS_PER_POINT)
    return tier, wait, min(job.prompt_characters / _CHARACTERS_PER_POINT, prompt_points)
