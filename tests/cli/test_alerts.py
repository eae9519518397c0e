"""`alerts` and `watchdog`, with their exit codes, and without Prefect."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.model.alerts import AlertRule, Finding, Severity
from reelkeeper.operations.alerts.alerts import observe
from reelkeeper.operations.health.watchdog import beat
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import open_store, transaction
from reelkeeper.store.tables import deployment
from tests.cli.conftest import Run
from tests.doubles import slack
from tests.doubles.slack import Answer, SlackDouble
from tests.faults.world import LONG_AGO
from tests.posts import post
from tests.reading import as_read

Ask = Callable[..., Any]


@pytest.fixture
def store(configured: Settings) -> Iterator[sa.Engine]:
    with open_store(configured) as engine:
        yield engine


@pytest.fixture
def at_slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackDouble]:
    with SlackDouble().serving() as double:
        for name, value in {
            "SLACK_BOT_TOKEN": slack.TOKEN,
            "SLACK_CHANNEL": slack.CHANNEL,
            "SLACK_API_URL": double.api_url,
            "SECOND_SINK_URL": double.second_url,
            "WATCHDOG_PING_URL": double.second_url,
        }.items():
            monkeypatch.setenv(f"REELKEEPER_{name}", value)
        yield double


@pytest.mark.long
def test_an_alert_is_listed_acknowledged_and_snoozed(reelkeeper: Run, ask: Ask, store: sa.Engine) -> None:
    assert "Nothing fires" in reelkeeper("alerts", "list").stdout
    found = Finding(
        "budget", "total", Severity.CRITICAL, "At 100 %", "", impact_microusd=12_340_000, period="2999-11", level="100"
    )
    observe(store, [found], rules=["budget"], run_id="run")
    said = reelkeeper("alerts", "list").stdout
    assert "100 %" in said
    assert "$12.34" in said
    (alert,) = ask("alerts", "list")["alerts"]
    reelkeeper("alerts", "ack", alert["id"])
    reelkeeper("alerts", "ack", alert["id"], exit_code=8)
    assert ask("alerts", "list")["alerts"][0]["state"] == "acknowledged"
    snooze = ask("alerts", "snooze", "budget", "--for", "90d", "--reason", "known")["snooze"]
    assert "known" in reelkeeper("alerts", "list").stdout
    reelkeeper("alerts", "unsnooze", snooze)
    assert ask("alerts", "list")["snoozes"] == []
    observe(store, [], rules=["budget"], run_id="run")
    assert ask("alerts", "list")["alerts"] == []
    assert ask("alerts", "list", "--all")["alerts"][0]["state"] == "resolved"


@pytest.mark.parametrize("time", ["8", "0h", "-1h", "8 hours", "99999d", "9999d", "91d"])
def test_a_snooze_needs_a_time(reelkeeper: Run, time: str) -> None:
    reelkeeper("alerts", "snooze", "budget", "--for", time, "--reason", "r", exit_code=2)


@pytest.mark.parametrize(
    "command",
    [
        ("alerts", "snooze", "budget", "--for", "8h"),
        ("credits", "grant", "ann", "1"),
        ("freeze",),
        ("hold", "--user", "ann"),
        ("policy", "rollback", "0"),
        ("takedown", "v1"),
        ("webhooks", "release", "--all"),
    ],
)
def test_a_reason_is_not_blank(reelkeeper: Run, command: tuple[str, ...]) -> None:
    assert as_read(reelkeeper(*command, "--reason", " ", exit_code=2).stderr, only="--reason") == snapshot(
        "Invalid value for '--reason': it is empty; say why"
    )


def test_a_rule_that_does_not_exist_is_not_silenced(reelkeeper: Run, ask: Ask) -> None:
    refused = reelkeeper("alerts", "snooze", "budgets", "--for", "8h", "--reason", "r", exit_code=8)
    assert "'budgets'" in refused.stderr
    assert ", ".join(sorted(get_args(AlertRule))[:3]) in refused.stderr
    assert ask("alerts", "list")["snoozes"] == []


def test_a_snooze_names_the_scopes_that_it_silences_and_says_where_there_is_none(
    reelkeeper: Run, ask: Ask, store: sa.Engine
) -> None:
    found = [Finding("silent_flow", f"flow:{flow}", Severity.CRITICAL, "Silent", "") for flow in ("a", "b")]
    observe(store, found, rules=["silent_flow"], run_id="run")
    words = ("alerts", "snooze", "silent_flow", "--for", "8h", "--reason", "r")
    assert ask(*words)["scopes"] == ["flow:a", "flow:b"]
    assert ask(*words, "--scope", "flow:b")["scopes"] == ["flow:b"]
    assert ask(*words, "--scope", "b")["scopes"] == []
    known, unknown = (reelkeeper(*words, "--scope", scope).stdout for scope in ("flow:b", "b"))
    assert "flow:a" not in known
    assert "flow:a" in unknown


def test_waiting_messages_are_listed(reelkeeper: Run, ask: Ask, store: sa.Engine) -> None:
    assert as_read(reelkeeper("alerts", "messages").stdout) == snapshot("No message waits.")
    post(store, "A note")
    assert "A note" in reelkeeper("alerts", "messages").stdout
    assert ask("alerts", "messages")[0]["state"] == "waiting"


def test_a_test_message_goes_to_every_sink(reelkeeper: Run, at_slack: SlackDouble) -> None:
    assert "accepted" in reelkeeper("alerts", "test").stdout
    assert at_slack.titles() == snapshot(["A test of Reelkeeper's alerts"])
    assert len(at_slack.second) == 1
    at_slack.queue = [Answer(200, {"ok": False, "error": "invalid_auth"})]
    refused = reelkeeper("alerts", "test", exit_code=6).stderr
    assert "invalid_auth" in refused
    assert "accepted" not in refused


def test_the_watchdog_calls_an_address_when_all_is_well(
    reelkeeper: Run, at_slack: SlackDouble, store: sa.Engine
) -> None:
    for flow in CADENCES:
        beat(store, flow, run_id="run", **CADENCES[flow]._asdict())
    assert as_read(reelkeeper("watchdog").stdout) == snapshot("None of 13 flows is overdue, and no message is stuck.")
    assert [path for _, path in at_slack.asked] == ["/second"]  # a GET, which the double answers as well


@pytest.mark.long
def test_a_silent_flow_ends_with_10_and_is_reported_to_both_sinks(
    reelkeeper: Run, at_slack: SlackDouble, store: sa.Engine
) -> None:
    for flow in CADENCES.keys() - {"sync_catalog"}:
        beat(store, flow, run_id="run", **CADENCES[flow]._asdict())
    with transaction(store, "test") as session:
        session.execute(sa.update(deployment).values(created_at=LONG_AGO))
    result = reelkeeper("watchdog", exit_code=10)
    assert as_read(result.stderr, days=re.compile(r"[\d,.]+(?= days)")) == snapshot(
        "error: sync_catalog has not succeeded for <days> days"
    )
    assert len(at_slack.titles()) == len(at_slack.second) == 1
    reelkeeper("watchdog", "--except", "sync_catalog")
    reelkeeper("watchdog", "--except", "no_such_flow", exit_code=2)


def test_the_watchdog_says_when_the_store_cannot_be_opened(
    reelkeeper: Run, at_slack: SlackDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELKEEPER_DATABASE_URL", "sqlite:///elsewhere/none.sqlite3")
    reelkeeper("watchdog", exit_code=7)
    reelkeeper("watchdog", exit_code=7)
    assert [entry["title"] for entry in at_slack.second] == snapshot(["Reelkeeper's store cannot be opened"])


@pytest.mark.long
@pytest.mark.usefixtures("no_store", "store")  # a new store, whose flows nothing is late of
def test_the_watchdog_needs_no_prefect() -> None:
    code = (
        "import sys\nfrom reelkeeper.cli import app\n"
        "try:\n    app(['watchdog', '--json'])\nfinally:\n    assert 'prefect' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
