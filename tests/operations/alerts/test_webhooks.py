"""Outgoing webhooks against a verifying server: none lost, repetitions recognisable, order kept, failures isolated."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import AddressRefused, InputRefused, NotFound
from reelkeeper.model.alerts import EventType, Finding, Happened, MessageState, Severity
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.alerts.alerts import end_snooze, observe, snooze
from reelkeeper.operations.alerts.outbox import preview
from reelkeeper.operations.alerts.webhooks import MAX_AT_ONCE, MAX_ENDPOINTS, Deliveries
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.rules.alerts.webhooks import RETRY_SECONDS
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.store.alerts import alerts, outbox
from reelkeeper.store.alerts import webhooks as rows
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.prune_records import KINDS, count
from reelkeeper.store.tables import outbox as messages
from reelkeeper.store.tables import users
from reelkeeper.store.tables import webhook_endpoints as endpoints
from tests.doubles.receiver import LOST, TRICKLE, Receiver
from tests.operations.asking import ask, fox
from tests.policies import put_in_force
from tests.worlds import AtFailpoint


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with Receiver().serving() as receiver:
        yield receiver


class Service:
    """A store with endpoints at a receiver."""

    def __init__(self, engine: sa.Engine, receiver: Receiver) -> None:
        self.engine, self.receiver = engine, receiver

    def add(self, path: str = "/live", *events: EventType) -> str:
        endpoint_id, secret = webhooks.add(
            self.engine, self.receiver.url(path), events, allow_private=True, author="test"
        )
        self.receiver.secrets[path].append(secret)
        return endpoint_id

    def happens(self, *subjects: str, type_: EventType = EventType.VIDEO_CHANGED) -> None:
        with transaction(self.engine, "test") as session:
            rows.put(session, [Happened(type_, subject, {"n": n, "of": subject}) for n, subject in enumerate(subjects)])

    def deliver(self, seconds: float = 20, timeout_seconds: float = 5.0, **options: bool) -> Deliveries:
        return webhooks.deliver(
            self.engine, allow_private=True, seconds=seconds, timeout_seconds=timeout_seconds, **options
        )

    def later(self, seconds: float = 30 * 86_400, *columns: sa.Column[datetime]) -> None:
        """Let time pass for waiting messages."""
        with transaction(self.engine, "test") as session:
            for column in columns or (messages.c.due_at, endpoints.c.closed_until):
                for key, at in session.execute(sa.select(column.table.c.id, column).where(column.is_not(None))).all():
                    moved = sa.update(column.table).where(column.table.c.id == key)
                    session.execute(moved.values({column.name: at - timedelta(seconds=seconds)}))

    def states(self) -> list[str]:
        with reading(self.engine) as session:
            return list(session.execute(sa.select(messages.c.state).order_by(messages.c.id)).scalars())

    def event_states(self) -> list[str]:
        with reading(self.engine) as session:
            chosen = sa.select(messages.c.state).where(messages.c.endpoint_id.is_not(None)).order_by(messages.c.id)
            return list(session.execute(chosen).scalars())

    def alerts(self) -> set[tuple[str, str]]:
        with reading(self.engine) as session:
            return {(line.rule, line.scope) for line in alerts.listed(session, everything=False, limit=100)}


@pytest.fixture
def service(engine: sa.Engine, server: Receiver) -> Service:
    server.secrets.clear()
    server.answers.clear()
    server.always.clear()
    server.headers.clear()
    server.seconds.clear()
    server.got.clear()
    server.at_once.clear()
    return Service(engine, server)


def test_each_event_arrives_once_and_signed_and_is_not_sent_to_people(service: Service) -> None:
    service.add()
    service.happens("v1", "v2")
    assert service.deliver(seconds=5) == Deliveries(2, 0)
    assert service.deliver() == Deliveries(0, 0)
    got = service.receiver.got["/live"]
    assert [(each.type, each.data["of"], len(each.verified)) for each in got] == [
        ("video.changed", "v1", 1),
        ("video.changed", "v2", 1),
    ]
    assert len({each.id for each in got}) == 2
    assert service.states() == ["sent", "sent"]


def test_events_are_none_of_slacks(service: Service) -> None:
    service.add()
    service.happens("v1")
    assert preview(service.engine, limit=10) == (0, ())
    with transaction(service.engine, "test") as session:
        assert not outbox.has_due(session)
        assert outbox.take_next(session) is None
        assert outbox.overdue(session, -1, tried=False, limit=10) == []


def test_an_endpoint_gets_the_events_that_it_subscribes_to(service: Service) -> None:
    service.add("/some", EventType.VIDEO_PURGED)
    service.add("/all")
    service.happens("v1")
    service.happens("v1", type_=EventType.VIDEO_PURGED)
    service.deliver()
    assert [each.type for each in service.receiver.got["/some"]] == ["video.purged"]
    assert [each.type for each in service.receiver.got["/all"]] == ["video.changed", "video.purged"]


@pytest.mark.parametrize(
    "answer", [LOST, 500, *(pytest.param(odd, marks=pytest.mark.long) for odd in (404, 302, TRICKLE))]
)
def test_events_that_were_not_accepted_are_sent_again_under_the_same_id_in_order(
    service: Service, answer: int | str
) -> None:
    service.add()
    service.receiver.answers["/live"] = [answer]
    service.happens("v1", "v1", "v2")
    assert service.deliver(timeout_seconds=0.5 if answer == TRICKLE else 5.0) == Deliveries(
        1, 1
    )  # of v1 the second waits for the first
    assert service.deliver() == Deliveries(0, 0)
    service.later()
    assert service.deliver() == Deliveries(2, 0)
    got = service.receiver.got["/live"]
    assert [(each.data["of"], each.data["n"]) for each in got] == [("v1", 0), ("v2", 2), ("v1", 0), ("v1", 1)]
    assert got[0].id == got[2].id
    assert len({each.id for each in got}) == 3
    assert all(each.verified for each in got)


def test_an_endpoint_that_asks_for_a_pause_gets_nothing_meanwhile(service: Service) -> None:
    service.add()
    service.receiver.answers["/live"] = [503]
    service.receiver.headers["Retry-After"] = "3600"
    service.happens("v1", "v2")
    assert service.deliver() == Deliveries(0, 1)
    service.later(3_500)
    assert service.deliver() == Deliveries(0, 0)
    service.later(200)
    assert service.deliver() == Deliveries(2, 0)


def test_an_endpoint_that_is_down_is_asked_three_times_and_then_less_and_less(service: Service) -> None:
    service.add()
    service.receiver.always["/live"] = 500
    service.happens(*(f"v{n}" for n in range(9)))
    assert service.deliver() == Deliveries(0, 3)
    service.later(5, endpoints.c.closed_until)
    assert service.deliver() == Deliveries(0, 1)
    service.later(5, endpoints.c.closed_until)
    assert service.deliver() == Deliveries(0, 0)


@pytest.mark.long
def test_a_dead_endpoint_delays_no_other(service: Service) -> None:
    service.add("/dead")
    service.add("/live")
    service.receiver.always["/dead"] = TRICKLE
    service.happens(*(f"v{n}" for n in range(10)))
    began = time.monotonic()
    assert service.deliver(timeout_seconds=1.0) == Deliveries(10, 3)
    assert service.receiver.got["/live"][-1].at < service.receiver.got["/dead"][1].at
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("each", [3, 1])
def test_events_of_different_subjects_are_sent_side_by_side_over_kept_connections_each_once(
    service: Service, each: int
) -> None:
    service.add()
    service.receiver.seconds["/live"] = 0.2
    before = service.receiver.connections
    service.happens(*(f"v{number // each}" for number in range(48)))
    assert service.deliver() == Deliveries(48, 0)
    got = service.receiver.got["/live"]
    assert len({event.id for event in got}) == len(got) == 48
    assert service.receiver.connections - before < 48 / 1.5
    at_once, of_one_subject = map(max, zip(*service.receiver.at_once, strict=True))
    assert (at_once > 4, at_once <= MAX_AT_ONCE, of_one_subject) == (True, True, 1)
    came = defaultdict(list)
    for event in got:
        came[event.data["of"]].append(event.data["n"])
    assert all(numbers == sorted(numbers) for numbers in came.values())


def test_the_failures_of_messages_that_were_at_work_together_count_as_one(service: Service) -> None:
    service.add()
    service.receiver.seconds["/live"] = 0.2
    service.receiver.answers["/live"] = [*[200] * 20, *[500] * 40]
    service.happens(*(f"v{number}" for number in range(60)))
    delivered = service.deliver()
    assert 5 < delivered.failed <= MAX_AT_ONCE + 2
    with reading(service.engine) as session:
        assert session.execute(sa.select(endpoints.c.failures)).scalar() == 3


def test_a_failure_does_not_shorten_the_pause_that_another_was_asked_for(service: Service) -> None:
    service.add()
    service.receiver.seconds["/live"] = 0.05
    service.receiver.headers["Retry-After"] = "3600"
    service.receiver.answers["/live"] = [200, 200, 200, 503, *[500] * 40]
    service.happens(*(f"v{number}" for number in range(20)))
    service.deliver()
    service.later(3_500)
    assert service.deliver() == Deliveries(0, 0)


@pytest.mark.parametrize("odd", [b"x" * 100_000, None])
def test_an_answer_whose_body_is_long_or_never_ends_counts_by_its_status(service: Service, odd: bytes | None) -> None:
    service.add()
    service.receiver.body = odd
    service.happens("v1", "v2")
    try:
        assert service.deliver() == Deliveries(2, 0)
    finally:
        service.receiver.body = b""


def test_a_dead_endpoint_is_disabled_with_an_alert_and_loses_nothing(service: Service) -> None:
    endpoint_id = service.add()
    service.receiver.always["/live"] = 500
    service.happens("v1")
    service.deliver()
    service.later(3 * 86_400 - 60, messages.c.due_at, endpoints.c.failing_since)
    service.later(86_400, endpoints.c.closed_until)
    service.deliver()
    assert service.alerts() == set()
    service.later(120, endpoints.c.failing_since)
    service.later(86_400)
    service.deliver()
    assert service.alerts() == {("webhook_disabled", f"webhook:{endpoint_id}")}
    service.happens("v1", "v2")
    service.later()
    assert service.deliver() == Deliveries(0, 0)
    (line,) = webhooks.listed(service.engine)
    assert (line.waiting, line.given_up, line.disabled_at is not None) == (3, 0, True)
    service.receiver.always.clear()
    webhooks.enable(service.engine, endpoint_id, author="test")
    assert service.deliver() == Deliveries(3, 0)
    assert service.alerts() == set()


def test_days_without_a_delivery_do_not_disable_an_endpoint_that_failed_before_them(service: Service) -> None:
    service.add()
    service.receiver.always["/live"] = 500
    service.happens("v1")
    service.deliver()
    service.later(4 * 86_400, messages.c.due_at, endpoints.c.closed_until, endpoints.c.failing_since)
    assert service.deliver() == Deliveries(0, 1)
    assert (service.alerts(), service.states()) == (set(), ["waiting"])
    (line,) = webhooks.listed(service.engine)
    assert line.failing_since
    assert datetime.now(UTC) - line.failing_since < timedelta(hours=1)


def test_an_endpoint_that_says_it_is_gone_is_disabled_at_once(service: Service) -> None:
    endpoint_id = service.add()
    service.receiver.answers["/live"] = [410]
    service.happens("v1")
    service.deliver()
    assert service.alerts() == {("webhook_disabled", f"webhook:{endpoint_id}")}


def test_a_single_refused_message_is_given_up_with_an_alert_and_can_be_replayed(service: Service) -> None:
    endpoint_id = service.add()
    for attempt in range(len(RETRY_SECONDS) + 1):
        service.receiver.answers["/live"] = [400]
        service.happens(*(["bad", "bad"] if attempt == 0 else []), f"good{attempt}")
        service.deliver()
        service.later()
    assert service.event_states()[0] == MessageState.GIVEN_UP
    assert service.alerts() == {("webhook_given_up", f"webhook:{endpoint_id}")}
    service.deliver()
    assert service.event_states().count(MessageState.SENT) == len(RETRY_SECONDS) + 2  # the second of it went on
    first = service.receiver.got["/live"][0].id
    assert webhooks.replay(service.engine, endpoint_id, since=None, author="test") == 1
    assert service.deliver() == Deliveries(1, 0)
    assert service.receiver.got["/live"][-1].id == first
    assert service.alerts() == set()
    since = datetime.now(UTC) - timedelta(hours=1)
    assert webhooks.replay(service.engine, endpoint_id, since=since, author="test") == len(RETRY_SECONDS) + 3


def test_a_replay_since_a_time_has_what_was_delivered_since_then_however_old_it_was(service: Service) -> None:
    endpoint_id = service.add()
    service.happens("v1", "v2")  # while the endpoint is down, for three hours
    service.later(3 * 3600, messages.c.created_at)
    assert service.deliver() == Deliveries(2, 0)
    since = datetime.now(UTC) - timedelta(hours=1)  # the time of the backup that the service has lost all since
    assert webhooks.replay(service.engine, endpoint_id, since=since, author="test") == 2
    later = datetime.now(UTC) + timedelta(hours=1)
    assert service.deliver() == Deliveries(2, 0)
    assert webhooks.replay(service.engine, endpoint_id, since=later, author="test") == 0


def test_events_for_a_dead_endpoint_are_kept_as_long_as_other_messages(service: Service) -> None:
    kind = next(kind for kind in KINDS if kind.table is messages)
    endpoint_id, now = service.add(), datetime.now(UTC)
    for video in ("v1", "v2"):  # the last message stays, for its number
        service.happens(video)
    service.later(100 * 86_400, messages.c.created_at)
    counts = []
    for dead_days in (None, 1, 99):
        with transaction(service.engine, "test") as session:
            dead = now - timedelta(days=dead_days) if dead_days else None
            session.execute(sa.update(endpoints).where(endpoints.c.id == endpoint_id).values(disabled_at=dead))
            counts.append(count(session, kind, now - timedelta(days=90)))
    assert counts == [0, 0, 1]


def test_messages_are_signed_with_the_new_and_the_old_secret_for_a_day(service: Service) -> None:
    endpoint_id = service.add()
    (old,) = service.receiver.secrets["/live"]
    new = webhooks.rotate(service.engine, endpoint_id, author="test")
    service.receiver.secrets["/live"].append(new)
    service.happens("v1")
    service.deliver()
    for seconds in (86_400 - 60, 60):
        service.later(seconds, endpoints.c.old_secret_until)
        service.happens("v1")
        service.deliver()
    assert [each.verified for each in service.receiver.got["/live"]] == [(old, new), (old, new), (new,)]


def test_the_secret_in_use_also_signs_after_a_rotation_was_repeated_as_its_answer_was_lost(service: Service) -> None:
    endpoint_id = service.add()
    (old,) = service.receiver.secrets["/live"]
    webhooks.rotate(service.engine, endpoint_id, author="test")
    service.receiver.secrets["/live"].append(webhooks.rotate(service.engine, endpoint_id, author="test"))
    service.happens("v1")
    service.deliver()
    service.later(86_400, endpoints.c.old_secret_until)
    newest = webhooks.rotate(service.engine, endpoint_id, author="test")
    service.receiver.secrets["/live"].append(newest)
    service.happens("v1")
    service.deliver()
    _, new, _ = service.receiver.secrets["/live"]
    assert [each.verified for each in service.receiver.got["/live"]] == [(old, new), (new, newest)]


def test_a_disabled_endpoint_is_sent_nothing_and_a_removed_one_is_forgotten(service: Service) -> None:
    endpoint_id = service.add()
    service.happens("v1")
    webhooks.disable(service.engine, endpoint_id, author="test")
    assert service.deliver() == Deliveries(0, 0)
    webhooks.remove(service.engine, endpoint_id, author="test")
    assert (webhooks.listed(service.engine), service.states()) == ([], ["withdrawn"])
    acts: list[Callable[..., object]] = [webhooks.rotate, webhooks.disable, webhooks.enable, webhooks.remove]
    for act in acts:
        with pytest.raises(NotFound, match=endpoint_id):
            act(service.engine, endpoint_id, author="test")


def test_an_address_within_our_network_is_refused_when_added_and_when_sent_to(service: Service) -> None:
    for url in (service.receiver.url("/live"), "https://127.0.0.1/", "http://1.1.1.1/"):
        with pytest.raises(AddressRefused):
            webhooks.add(service.engine, url, allow_private=False, author="test")
    service.add()
    service.happens("v1")
    assert webhooks.deliver(service.engine, allow_private=False, seconds=5) == Deliveries(0, 1)
    assert service.receiver.got["/live"] == []


def test_a_request_that_is_repeated_before_its_first_answer_adds_one_endpoint(
    service: Service, at_failpoint: AtFailpoint
) -> None:
    url = service.receiver.url("/live")

    def add() -> str:
        return webhooks.add(service.engine, url, allow_private=True, author="test", key="k1")[0]

    with ThreadPoolExecutor(1) as pool:
        repeated: list[Future[str]] = []

        def meanwhile() -> None:
            repeated.append(pool.submit(add))
            wait(repeated, timeout=0.5)

        at_failpoint("webhooks.add.before_commit", meanwhile)
        assert add() == repeated[0].result(timeout=30)


def test_no_more_endpoints_are_added_than_are_served_at_once(service: Service) -> None:
    for number in range(MAX_ENDPOINTS):
        service.add(f"/{number}")
    with pytest.raises(InputRefused) as refused:
        service.add("/more")
    assert str(refused.value) == snapshot(
        "there are 20 webhooks, which is the limit; nothing was added. Delete one first"
    )


def test_two_processes_send_nothing_twice(service: Service) -> None:
    endpoint_id = service.add()
    service.happens("v1")
    with LeaseManager(service.engine) as manager:
        taken = manager.take([f"webhook/{endpoint_id}"])
        assert service.deliver(seconds=0.5) == Deliveries(0, 0)
        assert service.receiver.got["/live"] == []
        manager.release(taken)
    assert service.deliver() == Deliveries(1, 0)


def test_a_process_that_lost_its_lease_while_sending_records_nothing(
    service: Service, at_failpoint: Callable[[str, Callable[[], object]], None]
) -> None:
    endpoint_id = service.add()
    service.happens("v1")
    service.receiver.answers["/live"] = [500]

    def take_over() -> None:
        with transaction(service.engine, "other") as session:
            session.execute(sa.text("UPDATE leases SET token = token + 1, holder = 'other'"))

    at_failpoint("webhook.send.before", take_over)
    service.deliver(seconds=0.5)
    (line,) = webhooks.listed(service.engine)
    assert (line.id, line.failing_since, service.states()) == (endpoint_id, None, ["waiting"])


def test_an_unexpected_error_is_a_failed_attempt(service: Service) -> None:
    service.add()
    service.happens("v1", "v2")
    with transaction(service.engine, "test") as session:
        session.execute(sa.update(endpoints).values({"secret": "whsec_"}))
    assert service.deliver() == Deliveries(0, 2)
    (line,) = webhooks.listed(service.engine)
    assert (line.waiting, line.last_error) == (2, "unexpected EmptyWebhookSecretError")


@pytest.mark.long
def test_a_following_run_also_sends_events_that_arrive_meanwhile(
    service: Service, at_failpoint: Callable[[str, Callable[[], object]], None]
) -> None:
    service.add()
    service.happens("v1")
    at_failpoint("webhook.answered.after_commit", lambda: service.happens("v1"))
    assert service.deliver(seconds=3, follow=True) == Deliveries(2, 0)


def test_a_crossed_budget_is_reported_once(service: Service) -> None:
    service.add()
    found = [Finding("budget", "total", Severity.WARNING, "80 %", "words", period="2999-11", level="80")]
    found.append(Finding("drift", "total", Severity.WARNING, "drift", "words", period="2999-11"))
    for _ in range(2):
        observe(service.engine, found, rules={"budget", "drift"}, run_id="run")
    service.deliver()
    assert [(each.type, each.data["level"]) for each in service.receiver.got["/live"]] == [("budget.crossed", "80")]


def test_a_budget_that_is_crossed_during_a_snooze_is_reported_at_once_and_not_again_at_its_end(
    service: Service,
) -> None:
    service.add()
    snooze_id = snooze(service.engine, "budget", scope=None, seconds=60, author="ann", reason="known")
    found = [Finding("budget", "total", Severity.WARNING, "80 %", "words", period="2999-11", level="80")]
    for opened in (0, 0, 1, 0):
        if opened:
            end_snooze(service.engine, snooze_id)
        assert observe(service.engine, found, rules={"budget"}, run_id="run").opened == opened
        service.deliver()
        assert [(each.type, each.data["level"]) for each in service.receiver.got["/live"]] == [("budget.crossed", "80")]


def test_low_credits_are_reported_once_until_they_are_above_again(service: Service) -> None:
    """Of ten cents and later twenty, where eight are few; a fox costs 15,175 micro-dollars."""
    service.add()
    put_in_force(service.engine, admission=AdmissionPolicy(low_credits_usd=Decimal("0.08")))
    with transaction(service.engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
    for number in range(8):
        if number in {0, 3}:
            with transaction(service.engine, "test") as session:
                ledger.grant(session, "ann", 100_000, f"grant {number}", run_id="test")
        ask(service.engine, f"k{number}", fox(seed=number))
    service.deliver()
    told = [each.data for each in service.receiver.got["/live"] if each.type == "credits.low"]
    assert told == [{"user_id": "ann", "available_microusd": left, "low_microusd": 80_000} for left in (69_650, 78_600)]


def test_an_event_is_not_given_up_for_days_in_which_nobody_sent_it_to_an_endpoint_that_accepts_nothing(
    service: Service,
) -> None:
    service.add()
    service.receiver.always["/live"] = 500
    service.happens("v1")
    for seconds in RETRY_SECONDS:
        service.deliver()
        service.later(seconds, messages.c.due_at, endpoints.c.closed_until, endpoints.c.failing_since)
        if seconds == RETRY_SECONDS[-1]:  # then deliver_alerts is paused over a weekend
            service.later(2 * 86_400, messages.c.due_at, endpoints.c.closed_until, endpoints.c.failing_since)
    assert service.deliver() == Deliveries(0, 1)
    assert service.states()[0] == "waiting"
    service.receiver.always.clear()
    service.later()
    assert service.deliver() == Deliveries(1, 0)
