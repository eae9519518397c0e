"""The outbox against a server that answers like Slack: no message is lost, and none repeated without need."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters import second_sink
from reelkeeper.adapters.slack import Bot
from reelkeeper.model.alerts import Finding, MessageState, OutboxMessage, Picture, Severity
from reelkeeper.operations.alerts import outbox as operation
from reelkeeper.operations.alerts.alerts import observe, post_picture
from reelkeeper.operations.alerts.outbox import COPY_AFTER_SECONDS, Delivered, Sinks, deliver
from reelkeeper.store.alerts import outbox as queue
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import outbox
from tests.databases import until_waiting
from tests.doubles import slack
from tests.doubles.slack import Answer, SlackDouble
from tests.marks import marked
from tests.operations.clocks import MovedClock
from tests.posts import post

DAY_SECONDS = 24 * 3600


@pytest.fixture(scope="module")
def server() -> Iterator[SlackDouble]:
    with SlackDouble().serving() as double:
        yield double


@pytest.fixture
def double(server: SlackDouble) -> SlackDouble:
    server.reset()
    return server


@pytest.fixture
def sinks(double: SlackDouble) -> Sinks:
    """Slack's bot as it is in production but for a shorter timeout, and a second sink."""
    bot = Bot(slack.TOKEN, slack.CHANNEL, double.api_url, timeout_seconds=5)
    return Sinks(bot, second_sink.Webhook(double.second_url))


class Post:
    """Slack, the outbox and a clock that is moved."""

    def __init__(self, engine: sa.Engine, double: SlackDouble, sinks: Sinks, clock: MovedClock) -> None:
        self.engine, self.double, self.sinks, self.clock = engine, double, sinks, clock
        double.clock = clock.monotonic

    def write(self, *titles: str) -> None:
        for title in titles:
            post(self.engine, title)

    def deliver(self) -> Delivered:
        return deliver(self.engine, self.sinks, seconds=120, sleep=self.clock.sleep)

    def after(self, seconds: float) -> Delivered:
        self.clock.sleep(seconds)
        self.clock.longest_sleep_seconds = 0
        return self.deliver()

    def states(self) -> Counter[str]:
        with reading(self.engine) as session:
            return Counter(session.execute(sa.select(outbox.c.state)).scalars())


@pytest.fixture
def mail(engine: sa.Engine, double: SlackDouble, sinks: Sinks, monkeypatch: pytest.MonkeyPatch) -> Post:
    return Post(engine, double, sinks, MovedClock(monkeypatch))


def test_due_messages_are_sent_once_oldest_first(mail: Post) -> None:
    mail.write("a", "b")
    post_picture(mail.engine, "c", "words", Picture("chart.png", b"PNG"))
    assert mail.deliver().sent == 3
    assert mail.deliver() == mail.deliver()
    assert mail.double.titles() == ["a", "b"]
    assert [item.picture for item in mail.double.posted] == [b"", b"", b"PNG"]
    assert mail.states() == {"sent": 3}


@pytest.mark.long
def test_a_burst_of_a_hundred_goes_at_one_a_second(mail: Post) -> None:
    titles = [f"message {number}" for number in range(100)]
    mail.write(*titles)
    assert mail.deliver().sent == 100
    assert mail.double.titles() == titles
    assert min(mail.double.gaps()) >= 1
    assert mail.clock.longest_sleep_seconds <= 1


def test_several_processes_keep_one_pace(sqlite_engine: sa.Engine, double: SlackDouble, sinks: Sinks) -> None:
    for number in range(4):
        post(sqlite_engine, f"{number}")
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: deliver(sqlite_engine, sinks, seconds=30, sleep=time.sleep), range(3)))
    assert sum(run.sent for run in runs) == 4
    assert double.titles() == ["0", "1", "2", "3"]
    assert min(double.gaps()) >= 1


def test_a_message_sent_by_another_process_is_not_sent_again(postgresql_engine: sa.Engine) -> None:
    """SQLite has one writer at a time anyway."""
    message_id = post(postgresql_engine, "a")

    def take() -> object:
        with transaction(postgresql_engine, "test") as session:
            return queue.take_next(session)

    with ThreadPoolExecutor(1) as pool, transaction(postgresql_engine, "test") as session:
        queue.mark_sent(session, message_id, "a receipt")
        taken = pool.submit(take)
        until_waiting(postgresql_engine, 1)
        session.commit()
        assert taken.result(timeout=60) is None


WAITS = {"1": 1, "3600": 3600, "1.5": 1.5, None: 60}


@pytest.mark.long
@pytest.mark.parametrize(("header", "seconds"), WAITS.items())
def test_a_429_shuts_the_sink_for_as_long_as_it_says(mail: Post, header: str | None, seconds: float) -> None:
    mail.double.queue = [Answer(429, {"ok": False, "error": "ratelimited"}, {"Retry-After": header} if header else {})]
    mail.write("a", "b")
    mail.deliver()  # nobody sleeps for long: the message waits in its row
    assert mail.clock.longest_sleep_seconds <= 1
    while len(mail.double.posted) < 2:
        mail.after(max(seconds / 10, 0.5))
    asked = mail.double.asked_at()
    assert asked[1] - asked[0] >= seconds
    assert len(asked) == 3
    assert sorted(mail.double.titles()) == ["a", "b"]


@pytest.mark.parametrize(
    "trouble",
    [
        *(Answer(status, "<html>") for status in (500, 502, 503, 504)),
        Answer(200, {"ok": False, "error": "internal_error"}),
        slack.HANG,
        slack.RESET,
    ],
    ids=str,
)
def test_trouble_that_passes_delays_a_message_and_does_not_lose_it(mail: Post, trouble: slack.Next) -> None:
    mail.double.queue = [trouble]
    mail.write("a", "b")
    first = mail.deliver()
    assert (first.sent, first.failed, first.waiting) == (1, 1, 1)
    assert first.error.startswith("Slack ")
    assert mail.after(10).sent == 1
    assert mail.double.titles() == ["b", "a"]


def test_a_lost_reply_costs_one_repetition_that_can_be_known(mail: Post) -> None:
    mail.double.queue = [slack.LOST]
    mail.write("a")
    mail.deliver()
    mail.after(10)
    assert mail.double.titles() == ["a", "a"]
    assert len({item.body["client_msg_id"] for item in mail.double.posted}) == 1


def test_messages_that_slack_refuses_for_good_go_to_the_second_sink_at_once(mail: Post) -> None:
    mail.double.queue = [Answer(200, {"ok": False, "error": "channel_not_found"})]
    mail.write("a", "b")
    done = mail.deliver()
    assert (done.sent, done.diverted) == (1, 1)
    (given,) = mail.double.second
    assert given["title"] == "a"
    assert "channel_not_found" in given["text"]
    assert mail.states() == {"sent": 1, "diverted": 1}


def test_what_slack_refuses_for_good_waits_where_only_the_console_is_left(
    mail: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    """A revoked token or a wrong channel: whoever repairs it days later still gets the alerts of those days."""
    mail.sinks = Sinks(mail.sinks.first, second_sink.Console())
    mail.double.always = Answer(200, {"ok": False, "error": "token_revoked"})
    mail.write("a", "b")
    done = mail.deliver()
    assert (done.diverted, done.failed, done.waiting) == (0, 2, 2)
    assert "token_revoked" in done.error
    for _ in range(3):
        mail.after(COPY_AFTER_SECONDS)
    assert capsys.readouterr().err.count("\n- a") == 1
    mail.double.always = None
    assert mail.after(COPY_AFTER_SECONDS).sent == 2
    assert mail.double.titles() == ["a", "b"]


def test_a_message_that_slack_never_takes_ends_in_the_console(
    mail: Post, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operation, "MAX_REFUSALS", 2)
    mail.sinks = Sinks(mail.sinks.first, second_sink.Console())
    mail.double.too_long = "a"
    mail.write("a")
    assert (mail.deliver().waiting, mail.after(10).diverted) == (1, 1)
    assert capsys.readouterr().err == snapshot("""\
a
Not sent to slack/C0123456789: Slack answered 200, msg_too_long

""")


def test_messages_that_slack_never_takes_hold_up_no_other(mail: Post) -> None:
    mail.sinks = Sinks(mail.sinks.first, second_sink.Console())
    mail.double.too_long = "a"
    mail.write("a", "a", "a", "b")
    mail.deliver()
    mail.after(300)
    assert mail.double.titles() == ["b"]


def test_refused_by_both_sinks_it_waits(mail: Post) -> None:
    mail.double.too_long, mail.double.second_status = "a", 500
    mail.write("a")
    assert mail.deliver().waiting == 1
    mail.double.second_status = 200
    assert mail.after(10).diverted == 1
    assert [entry["title"] for entry in mail.double.second] == ["a"]


@pytest.mark.long
def test_an_outage_of_a_day_loses_and_repeats_nothing(mail: Post) -> None:
    titles = []
    mail.double.always = Answer(503, "down")
    for step in range(DAY_SECONDS // 1800):
        if step % 4 == 0:
            titles.append(f"{step}")
            mail.write(titles[-1])
        mail.after(1800)
        copied = {line for entry in mail.double.second for line in entry["lines"]}
        assert copied >= {title for title in titles if int(title) <= step}
    mail.double.always = None
    for _ in range(4):
        mail.after(300)
    assert sorted(mail.double.titles(), key=int) == titles
    assert mail.states() == {"sent": len(titles)}
    assert Counter(line for entry in mail.double.second for line in entry["lines"]) == Counter(titles)
    assert min(mail.double.gaps()) >= 1


def test_if_slack_asks_for_an_hours_pause_the_second_sink_gets_messages_within_15_minutes(mail: Post) -> None:
    mail.double.queue = [Answer(429, "", {"Retry-After": "3600"})]
    mail.write("a", "b")
    mail.deliver()
    mail.after(14 * 60)
    assert mail.double.second == []
    assert mail.after(120).copied == 2
    assert mail.after(300).copied == 0
    assert mail.after(3600).sent == 2


@pytest.mark.parametrize("slack_has_answered", [True, False])
def test_what_a_clock_that_was_ahead_has_written_is_sent_now(mail: Post, *, slack_has_answered: bool) -> None:
    mail.clock.sleep(3 * DAY_SECONDS)
    mail.write("a")
    if slack_has_answered:
        mail.deliver()
    mail.clock.sleep(-3 * DAY_SECONDS)
    mail.write("b")
    mail.deliver()
    assert mail.double.titles() == ["a", "b"]


def test_messages_copied_to_the_second_sink_are_no_longer_overdue(engine: sa.Engine) -> None:
    first, second = post(engine, "a"), post(engine, "b")
    with transaction(engine, "test") as session:
        queue.mark_copied(session, [first])
        assert [message_id for message_id, _ in queue.overdue(session, -60, tried=False, limit=9)] == [second]


def test_a_long_queue_at_a_sink_that_works_is_not_copied(mail: Post) -> None:
    mail.write("a")
    assert mail.after(2 * COPY_AFTER_SECONDS).copied == 0
    assert mail.double.titles() == ["a"]


def test_three_failures_in_a_row_end_a_run(mail: Post) -> None:
    mail.double.always = Answer(500, "")
    mail.write(*"abcdef")
    assert mail.deliver().failed == 3
    assert len(mail.double.asked) == 3


def test_a_message_that_slack_stumbles_over_holds_up_no_other(mail: Post) -> None:
    class Stumbling:
        name, pace_seconds = mail.sinks.first.name, 0.0

        def send(self, outgoing: OutboxMessage) -> str:
            if outgoing.message.title == "odd":
                raise RuntimeError("of a kind that nobody foresaw, with a secret")
            return mail.sinks.first.send(outgoing)

    mail.write("odd", *"abcd")
    run = deliver(mail.engine, Sinks(Stumbling(), mail.sinks.second), sleep=mail.clock.sleep)
    assert (run.sent, run.failed, run.error) == (4, 1, "unexpected RuntimeError")
    assert mail.double.titles() == ["a", "b", "c", "d"]


def test_a_resolution_is_sent_after_its_alert(mail: Post) -> None:
    mail.double.queue = [Answer(500, "")]
    found = Finding("budget", "total", Severity.WARNING, "at 80 %", "", period="2999-11", level="80")
    observe(mail.engine, [found], rules={"budget"}, run_id="run")
    mail.deliver()
    observe(mail.engine, [], rules={"budget"}, run_id="run")
    assert mail.deliver().sent == 0
    assert mail.after(10).sent == 2
    assert mail.double.titles() == [snapshot("🟠 Warning: at 80 %"), snapshot("🟢 Over: at 80 %")]


def test_a_process_that_was_stopped_sends_nothing_when_it_wakes(mail: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    mail.write("a")
    times = iter([0.0, 0.0, 0.0, 1_000.0])
    clock = SimpleNamespace(monotonic=lambda: next(times, 10_000.0))  # the module's alone: other threads look, too
    monkeypatch.setattr("reelkeeper.operations.alerts.outbox.time", clock)
    assert mail.deliver().failed == 1
    assert mail.double.asked == []
    monkeypatch.undo()
    assert mail.states() == {MessageState.WAITING: 1}


def test_without_slack_the_console_has_it(engine: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    found = Finding(
        "budget", "total", Severity.CRITICAL, "Over\x1b[2J", "$12 of $10.", "Look.", period="2999-11", level="100"
    )
    observe(engine, [found], rules={"budget"}, run_id="run")
    console = second_sink.Console()
    assert deliver(engine, Sinks(console, console)).sent == 1
    said = capsys.readouterr().err
    assert marked(said) == snapshot("""\
🔴 Critical: Over[2J
$12 of $10.
What to do: Look.
budget, total, 2999-11. To acknowledge: reelkeeper alerts ack ID

""")


@pytest.mark.parametrize(
    ("run_id", "linked"), [("0f8fad5b-d9cb-469f-a165-70867728950e", True), ("watchdog-1f2e", False), ("../x", False)]
)
def test_a_message_links_to_the_flow_run_that_found_it(mail: Post, run_id: str, linked: bool) -> None:
    mail.sinks = mail.sinks._replace(ui_url="https://prefect.example/")
    found = Finding("budget", "total", Severity.WARNING, "over", "by $1")
    observe(mail.engine, [found], rules=["budget"], run_id=run_id)
    mail.deliver()
    (posted,) = mail.double.posted
    urls = [row.get("url") for block in posted.body["blocks"] for row in block.get("elements", [])]
    assert [url for url in urls if url] == ([f"https://prefect.example/v2/runs/flow-run/{run_id}"] if linked else [])
