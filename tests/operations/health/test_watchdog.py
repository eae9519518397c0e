"""The watchdog: a silent flow is reported after its period and grace, once, to both sinks."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters import second_sink
from reelkeeper.adapters.slack import Bot
from reelkeeper.errors import SinkDown, StorageError
from reelkeeper.model.alerts import OutboxMessage
from reelkeeper.operations.alerts.outbox import Sinks
from reelkeeper.operations.health.watchdog import Watched, beat, tell_unreachable, watch
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.store.core.engine import Clock, transaction
from reelkeeper.store.core.epochs import RESTORED, set_marks
from reelkeeper.store.tables import deployment
from tests.doubles import slack
from tests.doubles.slack import Answer, SlackDouble
from tests.operations.clocks import MovedClock
from tests.posts import post


@pytest.fixture(scope="module")
def server() -> Iterator[SlackDouble]:
    with SlackDouble().serving() as double:
        yield double


class Post:
    """The watchdog, with its store and sinks."""

    def __init__(self, engine: sa.Engine, double: SlackDouble, clock: MovedClock) -> None:
        self.engine, self.double, self.clock = engine, double, clock
        double.reset()
        double.clock = clock.monotonic
        bot = Bot(slack.TOKEN, slack.CHANNEL, double.api_url, timeout_seconds=5)
        self.sinks = Sinks(bot, second_sink.Webhook(double.second_url))

    def beat(self, flow: str) -> None:
        beat(self.engine, flow, run_id="run", **CADENCES[flow]._asdict())

    def watch(self, *flows: str) -> Watched:
        return watch(self.engine, self.sinks, flows=flows, run_id="watchdog", sleep=self.clock.sleep)

    def second(self) -> list[str]:
        return [entry["title"] for entry in self.double.second]


@pytest.fixture
def post_room(engine: sa.Engine, server: SlackDouble, monkeypatch: pytest.MonkeyPatch) -> Post:
    """The watchdog, on a store that was made just now: the migrated one that each test copies may be an hour old."""
    with transaction(engine, "test") as session:
        session.execute(sa.update(deployment).values(created_at=Clock()))
    return Post(engine, server, MovedClock(monkeypatch))


@pytest.mark.parametrize("flow", sorted(CADENCES))
def test_silence_is_noticed_as_soon_as_period_and_grace_are_over(
    sqlite_engine: sa.Engine, server: SlackDouble, monkeypatch: pytest.MonkeyPatch, flow: str
) -> None:
    room = Post(sqlite_engine, server, MovedClock(monkeypatch))
    room.beat(flow)
    room.clock.sleep(sum(CADENCES[flow]) - 5)
    assert room.watch(flow).findings == ()
    room.clock.sleep(6)
    (found,) = room.watch(flow).findings
    assert (found.scope, found.severity) == (f"flow:{flow}", "critical")


def test_a_silent_flow_is_reported_once_to_both_sinks_and_its_recovery_once(post_room: Post) -> None:
    post_room.beat("sync_catalog")
    post_room.clock.sleep(3 * 3600)
    for _ in range(3):
        (found,) = post_room.watch("sync_catalog").findings
    title = found.title
    assert post_room.double.titles() == [f"🔴 Critical: {title}"]
    assert post_room.second() == [title]
    post_room.beat("sync_catalog")
    assert post_room.watch("sync_catalog").findings == ()
    assert post_room.double.titles()[1:] == [f"🟢 Over: {title}"]
    assert post_room.second() == [title]


def test_a_flow_that_never_ran_is_silent_since_the_store_was_made(post_room: Post) -> None:
    with transaction(post_room.engine, "test") as session:  # the copied one may be as old as the session of tests
        session.execute(sa.update(deployment).values(created_at=Clock()))
    assert post_room.watch("deliver_alerts", "tier_storage").findings == ()
    post_room.clock.sleep(3600)
    (found,) = post_room.watch("deliver_alerts", "tier_storage").findings
    assert re.sub(r"6\d", "MINUTES", found.title) == snapshot("deliver_alerts has not succeeded for MINUTES minutes")
    assert found.text == snapshot(
        "It has never succeeded; it should every 5 minutes, and at the latest 10 minutes after that."
    )


def test_the_next_run_sends_what_the_second_sink_did_not_accept(post_room: Post) -> None:
    post_room.clock.sleep(10 * 3600)
    post_room.double.second_status = 500
    assert post_room.watch("sync_catalog").error == snapshot("the second sink answered 500")
    post_room.double.second_status = 200
    assert post_room.watch("sync_catalog").error == ""
    assert len(post_room.second()) == 1
    assert len(post_room.double.titles()) == 1


def test_stuck_messages_are_reported_to_the_second_sink(post_room: Post) -> None:
    post_room.double.always = Answer(503, "")
    post(post_room.engine, "a note")
    post_room.watch()
    post_room.clock.sleep(14 * 60)
    assert post_room.watch().findings == ()
    post_room.clock.sleep(2 * 60)
    post(post_room.engine, "another, which nobody has tried to send yet")
    (found,) = post_room.watch().findings
    assert found.title == snapshot("2 messages in the outbox, the oldest for 16 minutes")
    assert "Slack answered 503" in found.text
    assert found.title in post_room.second()
    post_room.double.always = None
    post_room.clock.sleep(600)
    post_room.watch()
    post_room.clock.sleep(600)
    assert post_room.watch().findings == ()
    assert "a note" in post_room.double.titles()


def test_a_store_that_is_behind_has_an_alert_of_its_own_until_it_is_adopted(post_room: Post) -> None:
    with transaction(post_room.engine, "test") as session:
        set_marks(session, {RESTORED: "backup monday.zip"})
    for _ in range(2):
        (found,) = post_room.watch().findings
        assert (found.rule, found.severity) == ("store_behind", "critical")
        assert "monday.zip" in found.text
    assert post_room.second() == [found.title]
    with transaction(post_room.engine, "test") as session:
        set_marks(session, {RESTORED: None})
    assert post_room.watch().findings == ()
    assert len(post_room.double.titles()) == 2


def test_an_unreachable_store_is_reported_once_in_four_hours(tmp_path: Path) -> None:
    told: list[str] = []

    class Second:
        name, pace_seconds = "second", 0.0

        def send(self, outgoing: OutboxMessage) -> str:
            told.append(outgoing.message.text)
            return ""

    marker = tmp_path / "state" / "told"
    tell_unreachable(Second(), StorageError("silent"), marker, at=1_000_000)
    os.utime(marker, (1_000_000, 1_000_000))
    tell_unreachable(Second(), StorageError("silent"), marker, at=1_000_000 + 4 * 3_600 - 1)
    assert told == ["silent"]
    tell_unreachable(Second(), StorageError("silent"), marker, at=1_000_000 + 4 * 3_600)
    assert told == ["silent", "silent"]
    tell_unreachable(Second(), StorageError("silent"), marker, at=1_000_000 - 24 * 3_600)
    assert len(told) == 3


def test_an_alert_that_no_sink_accepted_is_not_marked_as_sent(tmp_path: Path) -> None:
    with pytest.raises(SinkDown):
        tell_unreachable(second_sink.Webhook("http://127.0.0.1:1/"), StorageError("x"), tmp_path / "told", at=1)
    assert not (tmp_path / "told").exists()
