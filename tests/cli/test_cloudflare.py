"""What the command asks of Cloudflare: reads as views, and whether the token will do."""

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from reelkeeper.settings import Settings
from tests.cli.conftest import Run
from tests.doubles.analytics import Operation
from tests.doubles.cloudflare import ACCOUNT, ALL, TOKEN, CloudflareDouble

Ask = Callable[..., Any]
DAY = datetime.now(UTC).date() - timedelta(days=2)


@pytest.fixture
def account(cloudflare: CloudflareDouble, configured: Settings, monkeypatch: pytest.MonkeyPatch) -> CloudflareDouble:
    """Cloudflare, as the deployment is configured to ask it."""
    assert configured.cloudflare_api_token is None
    given = {"ACCOUNT_ID": ACCOUNT, "API_TOKEN": TOKEN, "API_URL": cloudflare.url}
    for name, value in given.items():
        monkeypatch.setenv(f"REELKEEPER_CLOUDFLARE_{name}", value)
    return cloudflare


def test_reads_come_in_as_views(account: CloudflareDouble, reelkeeper: Run, ask: Ask, one_video: str) -> None:
    (listed,) = ask("videos")
    at = datetime.combine(DAY, time(), UTC)
    account.operations = [Operation(at.replace(hour=hour), "ListObjects") for hour in range(24)]
    account.operations.append(Operation(at.replace(hour=3), "GetObject", listed["key"], 11))
    (day,) = ask("videos", "import-reads", "--day", DAY)
    assert (day["day"], day["videos"], day["reads"], day["doubt"]) == (DAY.isoformat(), 1, 11, "")
    assert "could be, with --complete-days" in reelkeeper("videos", "import-reads", "--day", DAY).stdout
    assert ask("videos")[0]["views"] == 11
    assert DAY.isoformat() in {one["day"] for one in ask("videos", "import-reads", "--complete-days")}
    assert DAY.isoformat() not in {one["day"] for one in ask("videos", "import-reads")}
    assert one_video


def test_without_a_token_it_ends_with_2_and_says_what_to_set(reelkeeper: Run) -> None:
    assert "REELKEEPER_CLOUDFLARE_API_TOKEN" in reelkeeper("videos", "import-reads", exit_code=2).stderr


def test_a_token_that_lacks_a_permission_ends_with_2_and_is_told_which(
    account: CloudflareDouble, reelkeeper: Run
) -> None:
    account.permissions = ALL - {"Account Analytics: Read"}
    said = reelkeeper("videos", "import-reads", exit_code=2).stderr
    assert "lacks the permission 'Account Analytics: Read'" in said


@pytest.mark.parametrize(
    ("lacks", "state"), [(set(), "ok"), ({"Billing: Read"}, "warn"), ({"Account Analytics: Read"}, "fail")]
)
def test_doctor_tries_the_token(account: CloudflareDouble, ask: Ask, lacks: set[str], state: str) -> None:
    account.permissions = ALL - lacks
    (found,) = (one for one in ask("doctor", exit_code=int(state == "fail")) if one["part"] == "cloudflare")
    assert found["state"] == state
    assert all(name in found["remedy"] for name in lacks)
