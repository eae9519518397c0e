"""`deliver_alerts`: waiting messages are sent, and the run reports it; and the heartbeat of every flow."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Failed, Pending, Running

from flows.deliver_alerts import deliver_alerts
from reelkeeper import failpoints
from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import PartialFailure
from reelkeeper.model.alerts import EventType, Happened
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.alerts.alerts import report_runs
from reelkeeper.rules.alerts.cadence import FLOWS
from reelkeeper.settings import settings
from reelkeeper.store.alerts.webhooks import put
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.deployment import beats
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import heartbeats
from tests.doubles import slack
from tests.doubles.cloudflare import TOKEN, ZONE, CloudflareDouble
from tests.doubles.receiver import Receiver
from tests.doubles.slack import Answer, SlackDouble
from tests.operations.clocks import MovedClock
from tests.posts import post
from tests.reading import as_read


@pytest.fixture
def store(prefect_server: None, sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:  # noqa: ARG001  it must be up
    """A store with a message in its outbox, which the flow opens by its settings."""
    monkeypatch.setenv("REELKEEPER_DATABASE_URL", str(sqlite_engine.url))
    post(sqlite_engine, "Something happened")
    settings.cache_clear()
    yield sqlite_engine
    settings.cache_clear()


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackDouble]:
    with SlackDouble().serving() as double:
        for name, value in {
            "SLACK_BOT_TOKEN": slack.TOKEN,
            "SLACK_CHANNEL": slack.CHANNEL,
            "SLACK_API_URL": double.api_url,
            "SECOND_SINK_URL": double.second_url,
        }.items():
            monkeypatch.setenv(f"REELKEEPER_{name}", value)
        yield double


def last_beats(engine: sa.Engine) -> set[str]:
    with reading(engine) as session:
        return set(beats(session))


def test_a_dry_run_shows_what_waits_and_sends_nothing(double: SlackDouble, store: sa.Engine) -> None:
    report = deliver_alerts()
    assert (report.waiting, report.titles) == (1, ("Something happened",))
    assert double.asked == []
    assert last_beats(store) == set()  # it has proved nothing


def test_a_run_sends_what_waits_and_gives_a_sign_of_life(double: SlackDouble, store: sa.Engine) -> None:
    report = deliver_alerts(dry_run=False)
    assert (report.sent, report.waiting) == (1, 0)
    assert double.titles() == ["Something happened"]
    with reading(store) as session:
        (beat,) = session.execute(sa.select(heartbeats)).all()
    assert (beat.flow, beat.period_seconds, beat.grace_seconds) == ("deliver_alerts", 300, 600)
    assert beat.run_id == report.run_id


def test_messages_that_slack_refuses_go_to_the_second_sink_and_the_run_fails(
    double: SlackDouble, store: sa.Engine
) -> None:
    double.queue = [Answer(200, {"ok": False, "error": "is_archived"})]
    with pytest.raises(PartialFailure) as refused:
        deliver_alerts(dry_run=False)
    assert as_read(refused.value) == snapshot("""\
0 messages sent, 1 refused and diverted to the second sink, 0 attempts in vain, 0 waiting: Slack
  answered 200, is_archived. What waits is tried again by the next run\
""")
    assert [entry["title"] for entry in double.second] == ["Something happened"]
    assert last_beats(store) == set()


def test_without_slack_it_is_on_the_console(store: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert deliver_alerts(dry_run=False).sent == 1
    assert "Something happened" in capsys.readouterr().err
    assert last_beats(store) == {"deliver_alerts"}


def test_webhooks_are_delivered_and_a_dead_endpoint_fails_no_run(
    store: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELKEEPER_ALLOW_PRIVATE_ADDRESSES", "true")
    settings.cache_clear()
    with Receiver().serving() as receiver:
        receiver.always["/down"] = 500
        for path in ("/up", "/down"):
            _, secret = webhooks.add(store, receiver.url(path), allow_private=True, author="test")
            receiver.secrets[path].append(secret)
        with transaction(store, "test") as session:
            put(session, [Happened(EventType.VIDEO_PURGED, "v1", {"video_id": "v1"})])
        deliver_alerts(dry_run=False)
    assert [(each.type, len(each.verified)) for each in receiver.got["/up"]] == [("video.purged", 1)]
    assert [each.answer for each in receiver.got["/down"]] == [500]
    assert last_beats(store) == {"deliver_alerts"}


@pytest.mark.long
def test_a_run_tells_people_before_it_purges_deleted_objects_from_the_cache(
    double: SlackDouble, store: sa.Engine, cloudflare: CloudflareDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(store, "test") as session:
        append(session, [Event("purge", "run", "v", detail={"key": "videos/1.mp4"})])
    for name, value in {
        "CLOUDFLARE_API_URL": cloudflare.url,
        "PUBLIC_URL": "https://videos.example.com",
        "CACHE_ZONE_ID": ZONE,
        "CACHE_PURGE_TOKEN": TOKEN,
    }.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)
    settings.cache_clear()
    points: list[str] = []
    failpoints.observe(points.append)
    deliver_alerts(dry_run=False)
    failpoints.observe(None)
    assert cloudflare.forgotten == [["https://videos.example.com/videos/1.mp4"]]
    assert points.index("outbox.send.before") < points.index("cache.forget.before")
    assert double.titles() == ["Something happened"]


def test_a_run_that_a_worker_accepted_and_never_began_is_ended_after_a_while(client: SyncPrefectClient) -> None:
    deployment_id = client.create_deployment(client.create_flow(deliver_alerts), "every-5-minutes")
    accepted, begun, waits = (client.create_flow_run_from_deployment(deployment_id) for _ in range(3))
    client.set_flow_run_state(accepted.id, Pending(name="Submitting"), force=True)
    client.set_flow_run_state(begun.id, Running(), force=True)
    server, moment = Orchestrator(str(client.api_url)), datetime.now(UTC)
    assert server.end_never_begun(FLOWS, timedelta(minutes=1)) == 0
    assert server.end_never_begun(FLOWS, timedelta(minutes=-1)) == 1
    assert server.end_never_begun(FLOWS, timedelta(minutes=-1)) == 0
    states = {client.read_flow_run(run.id).state_name for run in (begun, waits)}
    assert states == {"Running", "Scheduled"}
    ended = {run.id for run in server.ended_badly(FLOWS, moment - timedelta(minutes=1))}
    assert ended & {str(run.id) for run in (accepted, begun, waits)} == {str(accepted.id)}


def test_a_run_begins_although_the_clock_of_prefects_server_is_behind_the_stores(
    client: SyncPrefectClient, sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment_id = client.create_deployment(client.create_flow(deliver_alerts), "every-5-minutes")
    run_id = client.create_flow_run_from_deployment(deployment_id).id
    client.set_flow_run_state(run_id, Pending(name="Submitting"), force=True)
    MovedClock(monkeypatch).sleep(600)
    report_runs(sqlite_engine, Orchestrator(str(client.api_url)), ui_url=None)
    state_name = client.read_flow_run(run_id).state_name
    client.delete_flow_run(run_id)  # the tests of a session share the server
    assert state_name == "Submitting"


def test_a_daily_run_that_failed_is_told_behind_more_runs_of_frequent_flows_than_one_answer_lists(
    client: SyncPrefectClient,
) -> None:
    frequent, daily = (
        client.create_deployment(client.create_flow_from_name(name), "every")
        for name in ("dispatch-jobs", "back-up-store")
    )
    moment, runs = datetime.now(UTC), list[str]()
    for deployment_id in (daily, *[frequent] * 3):
        run = client.create_flow_run_from_deployment(deployment_id)
        client.set_flow_run_state(run.id, Failed(message="the store does not answer"), force=True)
        runs.append(str(run.id))
    server = Orchestrator(str(client.api_url))
    ended = [run.id for run in server.ended_badly(FLOWS, moment - timedelta(minutes=1), limit=2)]
    assert [run_id for run_id in ended if run_id in runs] == runs[::-1]  # others of this file may be as young


def test_runs_of_flows_that_are_not_ours_are_neither_ended_nor_told(client: SyncPrefectClient) -> None:
    """Others may use the same server, and their runs may wait an hour for a machine."""
    theirs = client.create_deployment(client.create_flow_from_name("nightly-etl"), "nightly")
    begins, failed = (client.create_flow_run_from_deployment(theirs) for _ in range(2))
    client.set_flow_run_state(begins.id, Pending(), force=True)
    client.set_flow_run_state(failed.id, Failed(), force=True)
    server, moment = Orchestrator(str(client.api_url)), datetime.now(UTC)
    assert server.end_never_begun(FLOWS, timedelta(minutes=-1)) == 0
    assert client.read_flow_run(begins.id).state_name == "Pending"
    assert str(failed.id) not in {run.id for run in server.ended_badly(FLOWS, moment - timedelta(minutes=1))}


def test_failed_runs_of_a_server_that_is_not_ours_are_not_told(double: SlackDouble, store: sa.Engine) -> None:
    """It is ours if it is recorded for a deployment; `tests/e2e/test_whole.py` has such a one."""
    with get_client(sync_client=True) as client:
        deployment_id = client.create_deployment(client.create_flow(deliver_alerts), "of another")
        run = client.create_flow_run_from_deployment(deployment_id)
        client.set_flow_run_state(run.id, Failed(message="of another"), force=True)
    deliver_alerts(dry_run=False)
    assert double.titles() == ["Something happened"]
    assert last_beats(store) == {"deliver_alerts"}
