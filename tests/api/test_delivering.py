"""The API sends the messages in the outbox within seconds, whichever process has put them there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from reelkeeper.adapters.second_sink import Console
from reelkeeper.adapters.slack import Bot
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.api.delivering import Delivering
from reelkeeper.api.routes.hooks import RUNS_PATH
from reelkeeper.model.alerts import MessageState, Sink
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.alerts.outbox import Sinks
from reelkeeper.operations.core import tokens
from reelkeeper.store.alerts import outbox
from reelkeeper.store.core import leases
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import outbox as outbox_rows
from tests.api.test_hooks_runs import RUN
from tests.doubles import slack
from tests.doubles.slack import SlackDouble
from tests.e2e.installation import until
from tests.faults.world import World

DEAD_FOR_SECONDS = 3.0  # as a turn's rest


@pytest.fixture(scope="module")
def at_slack() -> Iterator[SlackDouble]:
    with SlackDouble().serving() as double:
        yield double


def served(world: World, first: Sink) -> TestClient:
    """The API, within whose lifespan it sends."""
    delivering = Delivering(world.workspace.engine, Sinks(first, Console()))
    _, text = tokens.create(world.workspace.engine, "a test", [Scope.RUNS], author="test")
    app = create_app(AppState(world.workspace, Path(world.address.folder) / "scratch", delivering=delivering))
    return TestClient(app, headers={"Authorization": f"Bearer {text}"})


def post(world: World, title: str) -> None:
    with transaction(world.workspace.engine, "test") as session:
        alerts.post(session, title, "")


def bot(at_slack: SlackDouble) -> Bot:
    return Bot(slack.TOKEN, slack.CHANNEL, at_slack.api_url)


def test_a_run_that_went_wrong_is_told_of_at_once(sqlite_world: World, at_slack: SlackDouble) -> None:
    at_slack.reset()
    with served(sqlite_world, bot(at_slack)) as client:
        assert client.post(RUNS_PATH, json=RUN).status_code == 204
        until(lambda: "A run of tier_storage failed" in " ".join(at_slack.titles()), 8, "Slack has it")


def test_what_a_process_leaves_that_died_while_it_sent_goes_out_after_its_turn(
    sqlite_world: World, at_slack: SlackDouble
) -> None:
    at_slack.reset()
    assert leases.acquire(sqlite_world.workspace.engine, [bot(at_slack).name], "a dead worker", DEAD_FOR_SECONDS)
    post(sqlite_world, "left")
    with served(sqlite_world, bot(at_slack)):
        until(lambda: len(at_slack.posted) == 1, 30, "Slack has it")


def test_a_message_of_another_version_goes_out_as_it_stands_and_keeps_no_other(
    sqlite_world: World, at_slack: SlackDouble
) -> None:
    at_slack.reset()
    post(sqlite_world, "of a later version")
    with transaction(sqlite_world.workspace.engine, "test") as session:
        session.execute(sa.update(outbox_rows).values(payload={"title": 1, "lines": []}))
    post(sqlite_world, "readable")
    with served(sqlite_world, bot(at_slack)):
        until(lambda: len(at_slack.titles()) == 2 and at_slack.titles()[1] == "readable", 30, "Slack has both")


def test_without_a_sink_that_people_read_it_leaves_messages_to_workers(sqlite_world: World) -> None:
    post(sqlite_world, "for Slack")
    with served(sqlite_world, Console()), pytest.raises(AssertionError):
        until(lambda: not waiting(sqlite_world), 3, "it was sent")
    assert waiting(sqlite_world) == [MessageState.WAITING]


def waiting(world: World) -> list[str]:
    with reading(world.workspace.engine) as session:
        return [each.state for each in outbox.listed(session, everything=False, limit=9)]
