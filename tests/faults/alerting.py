"""The child process of the alerts' kill tests: two alerts fire, are sent, and are resolved."""

import os
import time

from reelkeeper import failpoints
from reelkeeper.adapters import second_sink
from reelkeeper.adapters.slack import Bot
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.operations.alerts.alerts import observe
from reelkeeper.operations.alerts.outbox import Sinks, deliver
from reelkeeper.store.core.engine import open_engine
from tests.doubles import slack


def sender(store_url: str, api_url: str, second_url: str, seconds: float) -> None:
    """Deliver at Slack's true pace until the outbox has been empty for a while."""
    engine = open_engine(store_url)
    sinks = Sinks(Bot(slack.TOKEN, slack.CHANNEL, api_url), second_sink.Webhook(second_url))
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        deliver(engine, sinks, seconds=5)
        time.sleep(0.1)
    os._exit(0)


REFUSED = "too long"  # a title that the double refuses for good


def child(store_url: str, api_url: str, second_url: str, spec: str) -> None:
    """Run it all, with `spec` armed."""
    engine = open_engine(store_url)
    bot = Bot(slack.TOKEN, slack.CHANNEL, api_url)
    bot.pace_seconds = 0.0
    sinks = Sinks(bot, second_sink.Webhook(second_url))
    found = [
        Finding("budget", scope, Severity.WARNING, f"{scope} at 80 %", "", period="2999-11", level="80")
        for scope in ("total", REFUSED)
    ]
    failpoints.arm(spec)
    for findings in (found, []):
        observe(engine, findings, rules={"budget"}, run_id="run")
        deliver(engine, sinks, seconds=20)
    os._exit(0)  # what a forked child inherits is not its own to clean up
