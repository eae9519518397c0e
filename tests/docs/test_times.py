"""Each time that the documentation promises is the code's, where no test can wait for its boundary or move a clock."""

import re
from datetime import timedelta

import pytest

from reelkeeper.adapters.providers import transport, webhook
from reelkeeper.adapters.s3 import replace
from reelkeeper.api import collector, following
from reelkeeper.cli.commands import api
from reelkeeper.operations.alerts import outbox
from reelkeeper.operations.core import lease, workspace
from reelkeeper.rules.health import performance
from reelkeeper.rules.jobs import breaker
from reelkeeper.rules.sync import events
from reelkeeper.store.core import epochs
from reelkeeper.store.jobs import claims
from reelkeeper.store.lifecycle import plans
from reelkeeper.store.videos import conditions
from tests.docs.conftest import ROOT

SECONDS = {"s": 1, "second": 1, "minute": 60, "quarter of an hour": 900, "hour": 3600, "day": 86_400}
NUMBERS = {"a": 1, "an": 1, "each": 1, "five": 5}
AMOUNT = re.compile(rf"\b(\d+|{'|'.join(NUMBERS)}) ({'|'.join(sorted(SECONDS, key=len, reverse=True))})s?\b")
DAY = 86_400
PROMISES = [
    ("safety.md", "if our clock is more than 5 minutes from the bucket's", workspace.MAX_SKEW_FROM_BUCKET),
    ("safety.md", "or 1 minute from the store's", workspace.MAX_SKEW_FROM_STORE),
    ("safety.md", "Epochs of restores and holds are kept for 90 days", epochs._KEPT_DAYS * DAY),
    ("getting-started.md", "a plan is carried out once, within 24 hours", plans.MAX_AGE_HOURS * 3600),
    ("jobs.md", "lease of 55 seconds", claims.LEASE_SECONDS),
    ("runbooks.md", "Job workers wait up to 40 seconds for the store", lease.GIVE_UP_SECONDS),
    ("runbooks.md", "those that have waited for 15 minutes go to the second sink", outbox.COPY_AFTER_SECONDS),
    ("api.md", "1,000 in all, an hour each", following._MAX_SECONDS),
    ("api.md", "ends its streams at once and waits 20 s", api._PATIENCE_SECONDS),
    ("monitoring.md", "are refreshed every five minutes", collector.KEPT_SECONDS),
    ("monitoring.md", "records each quarter of an hour", performance.WINDOW_SECONDS),
    ("providers.md", "no job has tried a provider for a day", breaker._UNTRIED),
    ("providers.md", "within five minutes", webhook.TOLERANCE_SECONDS),
    ("providers.md", "after `Retry-After`, else 30 s", transport._BUSY_SECONDS),
    ("r2.md", "it is repeated after 30 seconds", events._FIRST_DELAY_SECONDS),
    ("r2.md", "then after longer, up to an hour", events._MAX_DELAY_SECONDS),
]


@pytest.mark.parametrize(("page", "promise", "kept"), PROMISES, ids=[promise for _, promise, _ in PROMISES])
def test_a_time_is_as_documented(page: str, promise: str, kept: float | timedelta) -> None:
    assert promise in " ".join((ROOT / "docs" / page).read_text().split())
    ((number, unit),) = AMOUNT.findall(promise)
    assert (NUMBERS.get(number) or int(number)) * SECONDS[unit] == (
        kept.total_seconds() if isinstance(kept, timedelta) else kept
    )


def test_no_put_of_a_suspended_process_arrives_after_its_intent_is_settled() -> None:
    assert timedelta(seconds=replace.BODY_SECONDS) + workspace.MAX_SKEW_FROM_BUCKET <= conditions.CLAIM_TIMEOUT
