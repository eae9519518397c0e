"""The places that messages go to, as configured."""

import re
from dataclasses import replace
from typing import Final, NamedTuple

from reelkeeper.adapters import second_sink, slack
from reelkeeper.model.alerts import Letter, Sink
from reelkeeper.settings import Settings

_FLOW_RUN: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # Prefect's ids; a command's are others


class Sinks(NamedTuple):
    """Where messages go, and where those go that the first does not take."""

    first: Sink
    second: Sink
    ui_url: str = ""

    def linked(self, letter: Letter) -> Letter:
        """Give the letter with a link to its run, where that is a flow run and Prefect's UI is known."""
        run_id = letter.message.run_id
        if not self.ui_url or not _FLOW_RUN.fullmatch(run_id):
            return letter
        link = f"{self.ui_url.rstrip('/')}/v2/runs/flow-run/{run_id}"  # the UI of before is at /runs
        return replace(letter, message=letter.message.model_copy(update={"link": link}))


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
    first, second = [*found, console, console][:2]
    return Sinks(first, second, settings.ui_url or "")
