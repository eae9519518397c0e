"""Plans as artifacts: users' text is shown literally."""

from datetime import UTC, datetime

import pytest

from reelkeeper.model import Counts, PlanSummary
from reelkeeper.operations.lifecycle.plans import Figures
from reelkeeper.rules.core.wording import TRY_ANOTHER
from tasks.plans import _markdown, _plain


def test_an_id_that_would_be_a_cell_a_link_or_html_is_shown_as_it_is() -> None:
    assert _plain("a|b\n<img src=x> [x](http://y) _v_ é—") == (r"a\|b \<img src\=x\> \[x\]\(http\:\/\/y\) \_v\_ é—")


@pytest.mark.parametrize(
    ("flow", "is_named"), [("tier_storage", True), ("expire_videos", True), ("purge_retired", False)]
)
def test_a_plan_by_a_policy_says_how_to_try_another(flow: str, is_named: bool) -> None:
    plan = PlanSummary("p1", flow, datetime(2026, 11, 24, tzinfo=UTC), Counts(), Counts(), Counts())
    assert (TRY_ANOTHER in _markdown("A plan", Figures(plan, [], []))) is is_named
