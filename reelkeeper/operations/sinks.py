"""The places that messages go to, as configured."""

from typing import NamedTuple

from reelkeeper.adapters import second_sink, slack
from reelkeeper.model.alerts import Sink
from reelkeeper.settings import Settings


class Sinks(NamedTuple):
    """Where messages go, and where those go that the first does not take."""

    first: Sink
    second: Sink


def configured_sinks(settings: Settings) -> Sinks:
    """Slack first, by its bot or its webhook, then the second sink; whatever is not configured is the console."""
    console = second_sink.Console(logged=settings.log_format == "json")
    found: list[Sink] = []
    if settings.slack_bot_token and settings.slack_channel:
        found.append(
            slack.Bot(settings.slack_bot_token.get_secret_value(), settings.slack_channel, settings.slack_api_url)
        )
    elif settings.slack_webhook_url:
        found.append(slack.Webhook(settings.slack_webhook_url.get_secret_value()))
    if settings.second_sink_url:
        found.append(second_sink.Webhook(settings.second_sink_url.get_secret_value()))
    return Sinks(*[*found, console, console][:2])
