"""Videos for the tests of the rules."""

from datetime import UTC, datetime, timedelta
from typing import Any

from reelkeeper.model import Verdict, Video
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.lifecycle.lifecycle import Appraise, LifecyclePolicy, judging
from reelkeeper.rules.lifecycle.transcode import EFFICIENT_CODECS

AS_OF = datetime(2026, 11, 24, 2, tzinfo=UTC)
RECIPE = "recipe-now"
SECOND = timedelta(seconds=1)


def video(
    age_days: float | None = 10,
    views: int | None = 2,
    tier: str | None = "pro",
    **columns: Any,  # noqa: ANN401  any column
) -> Video:
    """A video of a pro user, ten days old and viewed twice, unless said otherwise."""
    created_at = None if age_days is None else AS_OF - timedelta(days=age_days)
    return Video("v1", "u1", tier, created_at, views, False, 10**7, "h264", None, 1, 1)._replace(**columns)


def judge(
    one: Video, policy: LifecyclePolicy, tiers: Tiers, as_of: datetime, recipe: str, worth: Appraise | None = None
) -> Verdict:
    """Judge one video; `recipe` is the mark of the present one."""
    return judging(policy, tiers, as_of, recipe, EFFICIENT_CODECS, worth)(one)
