"""The queue of R2's events: pulled under a lease, then acknowledged or retried, by Cloudflare's API."""

import base64
import json
from collections.abc import Iterator

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.cloudflare import queues
from reelkeeper.adapters.cloudflare.api import Api
from reelkeeper.adapters.cloudflare.queues import BATCH, Queue
from reelkeeper.errors import TokenRefused, UsageUnknown
from reelkeeper.settings import Settings
from tests.cloudflare import Time
from tests.doubles.cloudflare import ACCOUNT
from tests.doubles.queue import QUEUE, TOKEN, QueueDouble, event

GIVEN = {"account_id": ACCOUNT, "token": TOKEN}


@pytest.fixture(scope="module")
def serving() -> Iterator[QueueDouble]:
    with QueueDouble().serving() as double:
        yield double


@pytest.fixture
def double(serving: QueueDouble, time: Time) -> QueueDouble:
    serving.reset()
    serving.clock = lambda: time.now
    return serving


@pytest.fixture
def queue(double: QueueDouble, time: Time) -> Iterator[Queue]:
    api = Api(double.url, ACCOUNT, TOKEN, setting="REELKEEPER_EVENT_QUEUE_TOKEN", has_limit=False, sleep=time.sleep)
    queue = Queue(api, QUEUE)
    yield queue
    queue.close()


def test_messages_come_in_batches_with_how_many_are_left(double: QueueDouble, queue: Queue) -> None:
    for number in range(BATCH + 7):
        double.put({"number": number})
    pulled = queue.pull()
    assert ([message.body for message in pulled.messages], pulled.backlog) == ([{"number": n} for n in range(BATCH)], 7)
    assert {message.attempts for message in pulled.messages} == {1}
    assert double.asked == [("pull", {"batch_size": 100, "visibility_timeout_ms": 60_000})]


def test_acknowledged_messages_are_removed_and_the_others_delivered_again(
    double: QueueDouble, queue: Queue, time: Time
) -> None:
    for number in range(3):
        double.put(number)
    done, later, forgotten = queue.pull().messages
    queue.settle([done.lease_id], {later.lease_id: 600})
    assert double.asked[-1] == (
        "ack",
        {"acks": [{"lease_id": done.lease_id}], "retries": [{"lease_id": later.lease_id, "delay_seconds": 600}]},
    )
    assert queue.pull().messages == []
    time.now += 61
    assert [(message.body, message.attempts) for message in queue.pull().messages] == [(forgotten.body, 2)]
    time.now += 600
    assert later.body in [message.body for message in queue.pull().messages]


def test_settling_no_messages_sends_no_request(double: QueueDouble, queue: Queue) -> None:
    queue.settle([], {})
    assert double.asked == []


@pytest.mark.parametrize("kind", ["json", "bytes", "text"])
def test_bodies_of_all_kinds_are_read(double: QueueDouble, queue: Queue, kind: str) -> None:
    told = event("PutObject", "films", "v\u00eddeo.mp4", size=1, etag="e")
    double.put(json.dumps(told) if kind == "text" else told, kind=kind)
    assert queue.pull().messages[0].body == told


@pytest.mark.parametrize(
    "body",
    ["hello", "!!!", base64.b64encode(b"hello").decode(), base64.b64encode(b"\xff").decode(), "[" * 100_000],
    ids=["text", "no base64", "no JSON", "no UTF-8", "too deep"],
)
@pytest.mark.parametrize("kind", ["json", "text"])
def test_a_body_that_cannot_be_read_is_no_body_and_stops_no_other(
    double: QueueDouble, queue: Queue, body: str, kind: str
) -> None:
    double.put({"good": 1})
    double.put({"bad": 1})
    double.messages[1].body, double.messages[1].kind = body, kind
    assert [message.body for message in queue.pull().messages] == [{"good": 1}, None]


def test_an_undocumented_answer_is_reported(double: QueueDouble, queue: Queue) -> None:
    for result in ({}, {"messages": [{"id": "1"}]}, None, {"messages": 5}):
        double.queued = [(200, {}, {"success": True, "errors": [], "result": result})]
        with pytest.raises(UsageUnknown) as refused:
            queue.pull()
        assert str(refused.value).partition(": ")[0] == snapshot("Cloudflare's messages is not as documented")


def test_a_refusal_names_the_setting_and_the_permission(double: QueueDouble, queue: Queue) -> None:
    double.token = "another"  # noqa: S105  no secret
    with pytest.raises(TokenRefused, match=r"REELKEEPER_EVENT_QUEUE_TOKEN.*'Queues: Edit'") as refused:
        queue.pull()
    assert TOKEN not in str(refused.value)


def test_no_rate_limit_holds_pulls_up_and_what_may_pass_is_tried_again(
    double: QueueDouble, queue: Queue, time: Time
) -> None:
    for _ in range(400):
        queue.pull()
    assert time.waits == []
    double.queued = [(503, {}, {}), (0, {}, {})]
    assert queue.pull().messages == []
    assert len(time.waits) == 2


def test_without_settings_there_is_no_queue(double: QueueDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    assert queues.connect(Settings()) is None
    given = {
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "CLOUDFLARE_API_URL": double.url,
        "EVENT_QUEUE_ID": QUEUE,
        "EVENT_QUEUE_TOKEN": TOKEN,
    }
    for name, value in given.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)
    double.put({"good": 1})
    found = queues.connect(Settings())
    assert found is not None
    assert [message.body for message in found.pull().messages] == [{"good": 1}]
    found.close()
