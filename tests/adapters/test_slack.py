"""Posts to Slack fit its limits and contain no active markup; its answers are understood."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from reelkeeper.adapters.http_clients import retry_after_seconds
from reelkeeper.adapters.second_sink import as_text
from reelkeeper.adapters.slack import Bot, Webhook, lay_out
from reelkeeper.adapters.slack.blocks import length
from reelkeeper.errors import SinkBusy, SinkDown, SinkRefused
from reelkeeper.model.alerts import Message, MessageKind, OutboxMessage, Picture, Severity, Sink
from tests.doubles import slack
from tests.doubles.slack import Answer, SlackDouble
from tests.marks import marked

INJECTIONS = (
    *("<!channel>", "<!here>", "<!everyone>", "<@U012ABCDEF>", "<#C012ABCDEF>", "<!subteam^S012ABCDE>", "@channel"),
    *(
        "<https://evil.example|click here>",
        "<https://evil.example>",
        "https://evil.example/x?a=b&c=d",
        "<mailto:a@b.c|x>",
    ),
    *(
        "&lt;!here&gt;",
        "&amp;lt;!here&amp;gt;",
        "&#60;!here&#62;",
        "*bold* _it_ ~no~",
        "`code` ```block```",
        "> quoted",
    ),
    *(
        "<!date^1700000000^{date}|x>",
        ":rotating_light: :tada:",
        "\u202etxt.exe\u202c",
        "\u200b<\u200b!here>",
        "a\u2066b\u2069",
    ),
    *(
        "\x00\x07\x1b[31mred\x1b[0m",
        "line\rover\nnext",
        "\ud800\udfff",
        "\U000e0041\U000e0042",
        "x" * 10_000,
        "<" * 4_000,
    ),
    *("😀" * 3_000, '"}],"blocks":[{"type":"divider"}]'),
)


def outgoing(**fields: Any) -> OutboxMessage:  # noqa: ANN401  any field of a message
    return OutboxMessage("an-id", Message(**{"kind": MessageKind.ALERT, "title": "A title", **fields}))


def everywhere(text: str) -> Message:
    """Put a text into every field that can contain text."""
    return Message(
        kind=MessageKind.DIGEST,
        severity=Severity.CRITICAL,
        title=text,
        text=text,
        suggestion=text,
        figures=((text, text), ("", text)) * 6,
        lines=(text,) * 45,
        footer=text,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[SlackDouble]:
    with SlackDouble().serving() as double:
        yield double


@pytest.fixture
def double(server: SlackDouble) -> SlackDouble:
    server.reset()
    return server


@pytest.fixture
def bot(double: SlackDouble) -> Bot:
    return Bot(slack.TOKEN, slack.CHANNEL, double.api_url, timeout_seconds=5)


@pytest.fixture
def webhook(double: SlackDouble) -> Webhook:
    return Webhook(double.hook_url, timeout_seconds=5)


@pytest.mark.long("hundreds of generated messages")
@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
def test_text_of_others_is_inert_and_fits(double: SlackDouble, bot: Bot, webhook: Webhook, text: str) -> None:
    for sink in (bot, webhook):
        sink.send(OutboxMessage("an-id", everywhere(text)))
    bot.send(OutboxMessage("an-id", everywhere(text), Picture("chart.png", b"PNG")))
    assert len(double.posted) == 3
    for post in double.posted:
        assert slack.active_markup(post.body) == []
        shown = (
            "".join(slack.texts(post.body.get("blocks", []))) + post.body.get("text", "") + post.body.get("title", "")
        )
        assert not any(ord(mark) < 32 and mark not in "\n\t" for mark in shown)
        assert not set(shown) & set("\u202e\u202c\u2066\u2069\u200b\x7f")
    by_bot = double.posted[0].body
    assert (by_bot["parse"], by_bot["link_names"], by_bot["unfurl_links"], by_bot["mrkdwn"]) == (
        "none",
        False,
        False,
        False,
    )


TEXT = (
    st.text(max_size=400)
    | st.text("<>&", max_size=4_000)
    | st.builds(lambda part, n: part * n, st.text(max_size=9), st.integers(0, 2_000))
)


@given(
    st.builds(
        Message,
        kind=st.sampled_from(MessageKind),
        severity=st.sampled_from(Severity) | st.none(),
        title=TEXT,
        text=TEXT,
        suggestion=TEXT,
        figures=st.lists(st.tuples(TEXT, TEXT), max_size=12).map(tuple),
        lines=st.lists(TEXT, max_size=45).map(tuple),
        footer=TEXT,
        link=st.sampled_from(["", "https://prefect/v2/runs/flow-run/1"]),
        alert_id=st.sampled_from(["", "a1b2c3d4e5f6"]),
        fired_at=st.sampled_from([None, datetime(2026, 11, 24, tzinfo=UTC)]),
        plan_id=st.sampled_from(["", "2bc60dd8c552"]),
    ),
    st.booleans(),
)
def test_any_message_fits_slacks_limits(message: Message, has_buttons: bool) -> None:
    layout = lay_out(message, has_buttons=has_buttons)
    body = {"text": layout.text, "blocks": layout.blocks}
    assert slack.wrong_blocks(body) == ""
    assert slack.active_markup(body) == []
    assert sum(map(length, slack.texts(layout.blocks))) + length(layout.text) <= 13_200


def test_a_message_is_laid_out_in_full() -> None:
    said = Message(
        kind=MessageKind.ALERT,
        severity=Severity.WARNING,
        title="Daily budget at 100 %",
        text="$10.20 of $10.00.",
        suggestion="Look at compute.",
        figures=(("Spent", "$10.20"), ("Budget", "$10.00")),
        footer="budget, total",
        link="http://prefect:4200/v2/runs/flow-run/1",
    )
    layout = lay_out(said)
    assert layout.text == snapshot("🟠 Warning: Daily budget at 100 %")
    assert slack.texts(layout.blocks) == [
        snapshot("🟠 Warning: Daily budget at 100 %"),
        "$10.20 of $10.00.",
        "Spent\n$10.20",
        "Budget\n$10.00",
        snapshot("What to do: Look at compute."),
        "budget, total",
        snapshot("Show the run"),
    ]
    assert layout.blocks[-1]["elements"][0]["url"] == said.link
    assert as_text(said).splitlines()[-1] == f"The run: {said.link}"


def test_truncated_text_says_how_much_is_missing() -> None:
    layout = lay_out(Message(kind=MessageKind.ALERT, title="t" * 500, text="x" * 50_000))
    assert slack.texts(layout.blocks)[0] == "t" * 149 + "…"
    assert slack.texts(layout.blocks)[-1].lstrip("x") == snapshot(
        " … 47,056 characters more: reelkeeper alerts list --json"
    )
    digest = lay_out(Message(kind=MessageKind.DIGEST, title="t", lines=("l" * 1_000,) * 40))
    assert slack.texts(digest.blocks)[-1].splitlines()[-1] == snapshot("… 38 more: reelkeeper alerts list")


def test_a_message_carries_the_same_id_at_each_attempt(double: SlackDouble, bot: Bot) -> None:
    assert bot.send(outgoing()) == "1700000000.000001"
    (posted,) = double.posted
    assert posted.body["client_msg_id"] == "an-id"
    assert posted.body["metadata"]["event_payload"] == {"id": "an-id"}


def test_a_picture_is_uploaded_with_its_words(double: SlackDouble, bot: Bot) -> None:
    with_picture = OutboxMessage("an-id", outgoing(text="Up < down").message, Picture("chart.png", b"PNG"))
    assert bot.send(with_picture) == "F000"
    (posted,) = double.posted
    assert posted.picture == b"PNG"
    assert posted.body["initial_comment"] == snapshot("A title\nUp &lt; down")


def test_a_bot_that_may_not_upload_says_the_words(double: SlackDouble, bot: Bot) -> None:
    double.queue = [Answer(200, {"ok": False, "error": "missing_scope"})]
    bot.send(OutboxMessage("an-id", outgoing().message, Picture("chart.png", b"PNG")))
    assert marked("".join(slack.texts(double.posted[0].body["blocks"]))) == snapshot(
        "A title(No picture: Slack answered 200, missing_scope: the bot needs the scopes chat:write and, for pictures, files:write)"
    )


BUSY = {
    "1": 1,
    "3600": 3600,
    "1.5": 1.5,
    "0": 0,
    "-3": 0,
    "nan": 60,
    "1e400": 60,
    "99999999": 21600,
    "soon": 60,
    None: 60,
}


@pytest.mark.parametrize(("header", "seconds"), BUSY.items())
def test_a_429_says_how_long_to_wait(
    double: SlackDouble, bot: Bot, webhook: Webhook, header: str | None, seconds: float
) -> None:
    headers = {} if header is None else {"Retry-After": header}
    sinks: tuple[Sink, ...] = (bot, webhook)
    for sink in sinks:
        double.queue = [Answer(429, {"ok": False, "error": "ratelimited"}, headers)]
        with pytest.raises(SinkBusy) as busy:
            sink.send(outgoing())
        assert busy.value.seconds == seconds
    assert double.posted == []


def test_a_429_may_name_a_date() -> None:
    headers = {"retry-after": "Tue, 24 Nov 2026 12:01:40 GMT", "DATE": "Tue, 24 Nov 2026 12:00:00 GMT"}
    assert retry_after_seconds(headers, 60) == 100


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_an_error_that_may_pass_is_no_refusal(double: SlackDouble, bot: Bot, webhook: Webhook, status: int) -> None:
    sinks: tuple[Sink, ...] = (bot, webhook)
    for sink in sinks:
        double.queue = [Answer(status, "<html>busy</html>")]
        with pytest.raises(SinkDown, match=f"Slack answered {status}"):
            sink.send(outgoing())
    assert len(double.asked) == 2  # slack-sdk tries nothing again


@pytest.mark.parametrize("how", [slack.HANG, slack.RESET, slack.LOST])
def test_no_answer_is_no_refusal_and_tried_once(double: SlackDouble, bot: Bot, webhook: Webhook, how: str) -> None:
    sinks: tuple[Sink, ...] = (bot, webhook)
    for sink in sinks:
        double.queue = [how]
        with pytest.raises(SinkDown) as down:
            sink.send(outgoing())
        assert str(down.value).partition(": ")[0] == snapshot("Slack gave no answer")
    assert len(double.asked) == 2


@pytest.mark.parametrize("error", ["internal_error", "fatal_error", "service_unavailable", "never_heard_of"])
def test_an_error_in_a_200_that_may_pass(double: SlackDouble, bot: Bot, error: str) -> None:
    double.queue = [Answer(200, {"ok": False, "error": error})]
    with pytest.raises(SinkDown, match=error):
        bot.send(outgoing())


@pytest.mark.parametrize(
    "error", ["invalid_auth", "channel_not_found", "is_archived", "msg_blocks_too_long", "token_revoked"]
)
def test_an_error_for_good_is_a_refusal(double: SlackDouble, bot: Bot, error: str) -> None:
    double.queue = [Answer(200, {"ok": False, "error": error})]
    with pytest.raises(SinkRefused, match=error):
        bot.send(outgoing())


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        ("not_in_channel", "/invite"),
        ("channel_not_found", "REELKEEPER_SLACK_CHANNEL"),
        ("token_revoked", "REELKEEPER_SLACK_BOT_TOKEN"),
        ("missing_scope", "chat:write"),
    ],
)
def test_a_refusal_that_a_person_can_repair_says_how(double: SlackDouble, bot: Bot, error: str, way_out: str) -> None:
    double.queue = [Answer(200, {"ok": False, "error": error})]
    with pytest.raises(SinkRefused, match=f"{error}: .*{way_out}"):
        bot.send(outgoing())


def test_somebody_else_at_the_address_of_the_api_is_not_slack(double: SlackDouble, bot: Bot) -> None:
    double.queue = [Answer(200, "<html>Sign in to the guest network</html>")]
    with pytest.raises(SinkDown, match=r"not from Slack.*REELKEEPER_SLACK_API_URL"):
        bot.send(outgoing())


def test_a_webhook_that_is_gone_is_a_refusal(double: SlackDouble, webhook: Webhook) -> None:
    for status, said in (
        (400, "invalid_payload"),
        (403, "action_prohibited"),
        (404, "no_service"),
        (410, "channel_is_archived"),
    ):
        double.queue = [Answer(status, said)]
        with pytest.raises(SinkRefused, match=said):
            webhook.send(outgoing())


def test_a_foreign_server_at_the_address_is_detected(double: SlackDouble, webhook: Webhook) -> None:
    double.queue = [Answer(200, "<html>Sign in to the guest network</html>")]
    with pytest.raises(SinkDown) as refused:
        webhook.send(outgoing())
    assert marked(refused.value) == snapshot("the answer at the webhook's URL was not from Slack")


def test_no_error_tells_an_address_or_a_token(double: SlackDouble) -> None:
    sinks: tuple[Sink, ...] = (
        Webhook("http://127.0.0.1:1/services/a-secret"),
        Webhook("gopher://x/a-secret"),
        Webhook("http://[a-secret"),
        Webhook(f"{double.origin}/services/a-secret"),
        Bot("xoxb-a-secret", "C0", "http://127.0.0.1:1/"),
        Bot("xoxb-a-secret", "C0", double.api_url),
    )
    for sink in sinks:
        with pytest.raises((SinkDown, SinkRefused)) as error:
            sink.send(outgoing())
        assert "secret" not in str(error.value)
        assert error.value.__suppress_context__ or error.value.__context__ is None
