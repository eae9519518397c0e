"""Buttons in Slack: each press by an authorized operator acts once and is confirmed; all others change nothing."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from inline_snapshot import snapshot

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.adapters.slack import Bot
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.api.routes.hooks import SLACK_PATH
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.operations.alerts import alerts as operation
from reelkeeper.operations.alerts.outbox import Sinks, configured_sinks, deliver
from reelkeeper.settings import settings
from reelkeeper.store.alerts import alerts, outbox
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.lifecycle.plans import load_summary
from reelkeeper.store.tables import snoozes
from tests.api.answers import problem
from tests.doubles.prefect_api import PrefectDouble
from tests.doubles.slack import CHANNEL, OPERATOR, SIGNING_SECRET, TOKEN, SlackDouble, press
from tests.faults.world import World
from tests.marks import marked
from tests.operations.refused_plans import carry_out, planned, refuse, stock

BUDGET = Finding("budget", "total", Severity.WARNING, "total at 80 %", "Spend is high.", period="2999-11", level="80")


class Channel:
    """The operators' channel, with an app that has buttons."""

    def __init__(self, world: World, double: SlackDouble, caller: TestClient) -> None:
        self.engine, self.double, self.caller = world.workspace.engine, double, caller

    def tell(self, *findings: Finding) -> None:
        """Observe these findings, and post the news."""
        operation.observe(self.engine, findings, rules={"budget"}, run_id="run")
        self.deliver()

    def deliver(self) -> None:
        bot = Bot(TOKEN, CHANNEL, self.double.api_url, has_buttons=True)
        bot.pace_seconds = 0
        assert not deliver(self.engine, Sinks(bot, bot)).error

    def press(self, verb: str, **more: Any) -> str:  # noqa: ANN401  as `press` has them
        """Press the newest button of this verb; return the answer to the person."""
        answer = self.send(*press(self.double.button(verb), answer_url=self.double.answer_url, **more))
        assert answer == 200
        return self.double.answered[-1]

    def send(self, body: bytes, headers: dict[str, str]) -> int:
        return int(self.caller.post(SLACK_PATH, content=body, headers=headers).status_code)

    def told(self) -> list[str]:
        with reading(self.engine) as session:
            return sorted(item.title for item in outbox.listed(session, everything=True, limit=99))

    def state(self) -> tuple[Any, ...]:
        """Everything that a press may change."""
        with reading(self.engine) as session:
            listed = alerts.listed(session, everything=True, limit=99)
            snoozed = alerts.snoozes_in_force(session)
            approved = session.execute(sa.text("SELECT id, approved_by FROM plans ORDER BY id")).all()
        return listed, snoozed, [tuple(row) for row in approved], self.told()


@pytest.fixture
def slack_double() -> Iterator[SlackDouble]:
    with SlackDouble().serving() as made:
        yield made


@pytest.fixture
def prefect() -> Iterator[PrefectDouble]:
    with PrefectDouble().serving() as made:
        made.deployments["expire-videos/daily"] = "d-2"
        yield made


@pytest.fixture
def channel(
    app_state: AppState,
    world: World,
    slack_double: SlackDouble,
    prefect: PrefectDouble,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Channel]:
    monkeypatch.setenv("REELKEEPER_SLACK_SIGNING_SECRET", SIGNING_SECRET)
    monkeypatch.setenv("REELKEEPER_SLACK_OPERATORS", f"{OPERATOR}, U0OTHER")
    monkeypatch.setenv("REELKEEPER_SLACK_API_URL", slack_double.api_url)
    settings.cache_clear()
    with TestClient(create_app(replace(app_state, orchestrator=Orchestrator(prefect.url)))) as caller:
        yield Channel(world, slack_double, caller)
    settings.cache_clear()


def test_an_acknowledgement_is_posted_once_however_often_it_is_pressed(channel: Channel) -> None:
    channel.tell(BUDGET)
    assert channel.press("acknowledge").startswith("Acknowledged.")
    after = channel.state()
    assert channel.press("acknowledge") == snapshot("ada (Slack U0123ADA) has already acknowledged it.")
    assert channel.press("acknowledge", user="U0OTHER") == snapshot("ada (Slack U0123ADA) has already acknowledged it.")
    assert channel.state() == after
    assert after[0][0].acknowledged_by == f"ada (Slack {OPERATOR})"
    assert channel.told() == snapshot(["ada (Slack U0123ADA) acknowledged: total at 80 %", "total at 80 %"])


def test_a_press_applies_only_to_the_incident_of_its_message(channel: Channel) -> None:
    channel.tell(replace(BUDGET, period=""))
    old = channel.double.button("acknowledge")
    channel.tell()
    channel.tell(replace(BUDGET, period=""))
    before = channel.state()
    assert channel.send(*press(old, answer_url=channel.double.answer_url)) == 200
    assert marked(channel.double.answered[-1]) == snapshot(
        "This alert has ended. If it fires again, there is a newer message."
    )
    assert channel.state() == before
    assert channel.press("acknowledge").startswith("Acknowledged.")


def test_two_presses_make_one_snooze_and_a_replayed_press_does_not_restore_it(channel: Channel) -> None:
    channel.tell(BUDGET)
    call = press(channel.double.button("snooze"), answer_url=channel.double.answer_url)
    assert channel.send(*call) == 200
    assert marked(channel.double.answered[-1]) == snapshot(
        "Snoozed for 8 hours. If the alert still fires then, there is a new message."
    )
    after = channel.state()
    assert channel.press("snooze", at=time.time() + 1) == snapshot("It is already snoozed.")
    assert channel.state() == after
    (snoozed,) = after[1]
    assert (snoozed.rule, snoozed.scope, snoozed.author) == ("budget", "total", f"ada (Slack {OPERATOR})")
    assert timedelta(hours=7, minutes=59) < snoozed.until - datetime.now(UTC) < timedelta(hours=8, minutes=1)
    operation.end_snooze(channel.engine, snoozed.id)
    assert channel.send(*call) == 200
    assert channel.state()[1] == []


def test_an_alert_that_still_fires_when_its_snooze_ends_is_told_once_more(channel: Channel) -> None:
    channel.tell(BUDGET)
    channel.press("snooze")  # whose answer promises a new message if the alert still fires when it ends
    channel.tell(BUDGET)
    assert channel.told().count(BUDGET.title) == 1
    with transaction(channel.engine, "test") as session:  # eight hours later
        session.execute(sa.update(snoozes).values(until=now(session)))
    for _ in range(2):
        channel.tell(BUDGET)
        assert channel.told().count(BUDGET.title) == 2


def test_why_tells_one_person_all_that_is_known(channel: Channel) -> None:
    channel.tell(replace(BUDGET, figures=(("Limit", "$100"),), suggestion="Look at `bill`."))
    before = channel.state()
    said = channel.press("why")
    assert marked(said) == snapshot("""\
total at 80 %
Spend is high.
Limit: $100
What to do: Look at `bill`.
warning, firing: first DAY TIME, last DAY TIME UTC\
""")
    assert channel.state() == before


def test_a_refused_plan_is_approved_once_by_a_press_and_prefect_carries_it_out(
    channel: Channel, prefect: PrefectDouble
) -> None:
    stock(channel.engine)
    plan_id = planned(channel.engine)
    refuse(channel.engine, plan_id)
    channel.deliver()
    said = channel.press("why")
    assert marked(said) == snapshot("""\
expire_videos was refused: 8 of 8 live videos, 8.0 kB
refused, and nothing was changed: expire_videos selected 8 of 8 live videos, 8.0 kB
  max_objects: 8 videos, limit 5
  for example: v0, v1, v2, v3, v4
  plan: ID
  override: reelkeeper run expire_videos --apply --plan ID --param limits.max_objects=8
  or approve this plan for one run: reelkeeper approve ID --reason WHY
Plan: ID
What to do: If that is meant, approve this plan once; else look at what has changed: the policy, the views, the users' tiers
warning, firing: first DAY TIME, last DAY TIME UTC

Plan ID:
8 retire old, 8.0 kB
For example:
v0 of bob, 1.0 kB: old
v1 of bob, 1.0 kB: old
v2 of bob, 1.0 kB: old
v3 of bob, 1.0 kB: old
v4 of bob, 1.0 kB: old
All: reelkeeper plan --show ID\
""")
    assert marked(channel.press("approve")) == snapshot("Plan ID is approved for one run, and run run-0 was started.")
    assert marked(channel.press("approve")) == snapshot(
        "plan ID cannot be approved, and nothing was changed: it was approved by ada (Slack U0123ADA) on DAY TIME UTC"
    )
    (run,) = prefect.runs.values()
    assert run["parameters"] == {"plan_id": plan_id, "dry_run": False}
    carry_out(channel.engine, plan_id)
    assert len(prefect.runs) == 1
    assert channel.told() == snapshot(
        [
            "ada (Slack U0123ADA) approved a refused plan of expire_videos",
            "expire_videos was refused: 8 of 8 live videos, 8.0 kB",
        ]
    )


def test_an_approval_never_fits_another_plan(channel: Channel) -> None:
    stock(channel.engine)
    first, second = planned(channel.engine), planned(channel.engine)
    refuse(channel.engine, first)
    channel.deliver()
    button = channel.double.button("approve")
    refuse(channel.engine, second)
    channel.deliver()
    assert channel.send(*press(button, answer_url=channel.double.answer_url)) == 200
    with reading(channel.engine) as session:
        assert (load_summary(session, first).approved, load_summary(session, second).approved) == (
            {"max_objects": 8},
            {},
        )
    refuse(channel.engine, second)


def test_without_an_answer_from_prefect_the_person_is_given_the_command(
    channel: Channel, prefect: PrefectDouble
) -> None:
    stock(channel.engine)
    plan_id = planned(channel.engine)
    refuse(channel.engine, plan_id)
    channel.deliver()
    prefect.status = 503
    said = channel.press("approve")
    assert marked(said) == snapshot(
        "plan ID is approved, but no run was started: Prefect answered 503 to POST of a new run. reelkeeper run expire_videos --apply --plan ID"
    )


@pytest.mark.parametrize("verb", ["acknowledge", "snooze", "why", "approve"])
def test_a_foreign_person_changes_nothing(channel: Channel, verb: str) -> None:
    stock(channel.engine)
    refuse(channel.engine, planned(channel.engine))
    channel.deliver()
    before = channel.state()
    assert channel.press(verb, user="U0FOREIGN") == snapshot(
        "Nothing was done: U0FOREIGN is not in REELKEEPER_SLACK_OPERATORS."
    )
    assert channel.state() == before


def test_a_forged_an_old_and_a_future_press_change_nothing(channel: Channel) -> None:
    channel.tell(BUDGET)
    before = channel.state()
    button, url = channel.double.button("acknowledge"), channel.double.answer_url
    body, headers = press(button, answer_url=url)
    calls = [
        press(button, answer_url=url, secret=SIGNING_SECRET[::-1]),
        press(button, answer_url=url, at=time.time() - 301),
        press(button, answer_url=url, at=time.time() + 310),
        (body + b"x", headers),
        (body, headers | {"X-Slack-Signature": "v0="}),
        (body, headers | {"X-Slack-Request-Timestamp": "soon"}),
        (b"\xff", headers),
        (body, {}),
    ]
    assert [channel.send(*call) for call in calls] == [401] * len(calls)
    assert channel.state() == before
    assert channel.double.answered == []


@pytest.mark.parametrize(
    "about", [{"action_id": "link"}, {"value": "no such alert"}, {"value": ""}, {"action_id": None}]
)
def test_an_unknown_button_or_alert_changes_nothing(channel: Channel, about: dict[str, Any]) -> None:
    channel.tell(BUDGET)
    before = channel.state()
    button = channel.double.button("acknowledge") | about
    status = channel.send(*press(button, answer_url=channel.double.answer_url))
    assert status == (422 if about.get("action_id", "") is None else 200)
    assert channel.state() == before


def test_an_answer_goes_to_slack_alone(channel: Channel, caplog: pytest.LogCaptureFixture) -> None:
    channel.tell(BUDGET)
    for url in ("http://127.0.0.2:1/answer", "https://127.0.0.1.evil.example/x", "", "file:///etc/passwd"):
        assert channel.send(*press(channel.double.button("why"), answer_url=url)) == 200
    assert channel.double.answered == []
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert (
        warned
        == [snapshot("the answer to a click on a button could not be sent: the URL for the answer is not Slack's")] * 4
    )


def test_without_a_secret_no_press_is_believed_and_messages_have_no_buttons(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.tell(BUDGET)
    call = press(channel.double.button("acknowledge"), answer_url=channel.double.answer_url)
    for name in ("SIGNING_SECRET", "OPERATORS"):
        monkeypatch.delenv(f"REELKEEPER_SLACK_{name}")
    monkeypatch.setenv("REELKEEPER_SLACK_BOT_TOKEN", TOKEN)
    monkeypatch.setenv("REELKEEPER_SLACK_CHANNEL", CHANNEL)
    settings.cache_clear()
    channel.double.posted.clear()
    operation.observe(channel.engine, [replace(BUDGET, level="100")], rules={"budget"}, run_id="run")
    deliver(channel.engine, configured_sinks(settings()))
    (posted,) = channel.double.posted
    assert {block["type"] for block in posted.body["blocks"]} == {"header", "section", "context"}
    answer = channel.caller.post(SLACK_PATH, content=call[0], headers=call[1])
    assert marked(problem(answer, 404)["detail"]) == snapshot(
        "buttons are not accepted: REELKEEPER_SLACK_SIGNING_SECRET is not set"
    )
