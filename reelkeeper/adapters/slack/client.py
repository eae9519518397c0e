"""The way to Slack: one attempt a call.

The outbox decides when to try again, as slack-sdk's own retries post twice when a reply is lost, leave out 502 and 504,
and fail on a Retry-After of "1.5".

slack-sdk's log is switched off, since at the level DEBUG it holds addresses and bodies; what goes wrong is in our
errors, which never hold an address.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from typing import Final
from urllib.error import HTTPError

from slack_sdk import WebClient, WebhookClient
from slack_sdk.errors import SlackApiError, SlackClientError

from reelkeeper.adapters.retry_after import retry_after_seconds
from reelkeeper.adapters.second_sink import as_text
from reelkeeper.adapters.slack.blocks import MAX_SECTION, escape, lay_out
from reelkeeper.adapters.slack.refusals import FOR_GOOD
from reelkeeper.errors import SinkBusy, SinkDown, SinkError, SinkRefused
from reelkeeper.model.alerts import OutboxMessage
from reelkeeper.model.plaintext import one_line

TIMEOUT_SECONDS = 10
PACE_SECONDS = 1.0  # Slack takes about one message a second and channel ("Rate limits", Posting messages)
UNSAID_SECONDS = 60.0  # to wait after a 429 that does not say for how long
_log = logging.getLogger(f"{__name__}.sdk")
_log.setLevel(logging.CRITICAL + 1)

_CODE = re.compile(r"[a-z][a-z_]{2,60}")
_PASSING_STATUS: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}
_BUSY: Final = {"ratelimited", "rate_limited", "message_limit_exceeded"}


class Bot:
    """Posts as a bot, to one channel; needs the scopes chat:write and, for pictures, files:write."""

    pace_seconds = PACE_SECONDS

    def __init__(self, token: str, channel: str, api_url: str, *, timeout_seconds: int = TIMEOUT_SECONDS) -> None:
        self.name = f"slack/{channel}"
        self._channel = channel
        self._client = WebClient(token=token, base_url=api_url, timeout=timeout_seconds, retry_handlers=[], logger=_log)

    def send(self, outgoing: OutboxMessage) -> str:
        """Post a message, with its picture if it has one; returns Slack's timestamp or the file's id."""
        if outgoing.picture is None:
            return self._post(outgoing)
        try:
            return self._upload(outgoing)
        except SinkRefused as error:  # the words are still worth saying
            told = f"{outgoing.message.text}\n(No picture: {error})".strip()
            return self._post(OutboxMessage(outgoing.id, outgoing.message.model_copy(update={"text": told})))

    def _post(self, outgoing: OutboxMessage) -> str:
        layout = lay_out(outgoing.message)
        with _understood():
            answer = self._client.chat_postMessage(
                channel=self._channel,
                text=layout.text,
                blocks=layout.blocks,
                parse="none",
                link_names=False,
                mrkdwn=False,
                unfurl_links=False,
                unfurl_media=False,
                metadata={"event_type": "reelkeeper_message", "event_payload": {"id": outgoing.id}},
                client_msg_id=outgoing.id,
            )
        return str(answer.get("ts", ""))

    def _upload(self, outgoing: OutboxMessage) -> str:
        assert outgoing.picture is not None  # noqa: S101  the caller has looked
        title = one_line(outgoing.message.title)
        with _understood():
            answer = self._client.files_upload_v2(
                channel=self._channel,
                filename=outgoing.picture.name,
                content=outgoing.picture.png,
                title=title,
                alt_txt=title,
                initial_comment=escape(as_text(outgoing.message), MAX_SECTION),
            )
        return str((answer.get("files") or [{}])[0].get("id", ""))


class Webhook:
    """Posts through an incoming webhook, which takes no pictures: their words are posted."""

    name = "slack/webhook"
    pace_seconds = PACE_SECONDS

    def __init__(self, url: str, *, timeout_seconds: int = TIMEOUT_SECONDS) -> None:
        self._client = WebhookClient(url, timeout=timeout_seconds, retry_handlers=[], logger=_log)

    def send(self, outgoing: OutboxMessage) -> str:
        """Post a message; the receipt says only that it went through."""
        layout = lay_out(outgoing.message)
        with _understood():
            answer = self._client.send(text=layout.text, blocks=layout.blocks, unfurl_links=False, unfurl_media=False)
        if answer.status_code != HTTPStatus.OK:
            raise _meaning(answer.status_code, answer.headers, answer.body)
        if answer.body.strip() != "ok":
            raise SinkDown("something else than Slack answered at the webhook's address")
        return "ok"


@contextmanager
def _understood() -> Iterator[None]:
    """Turn whatever slack-sdk raises into our errors; none of their texts, which may hold an address."""
    try:
        yield
    except SlackApiError as error:
        answer = error.response
        data = answer.data if isinstance(answer.data, dict) else {}
        raise _meaning(answer.status_code, answer.headers, str(data.get("error", ""))) from None
    except HTTPError as error:  # of the upload itself, which slack-sdk lets through
        raise _meaning(error.code, dict(error.headers.items()), "") from None
    except SlackClientError as error:
        raise SinkDown(f"slack-sdk gave up: {type(error).__name__}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise SinkDown(f"Slack gave no answer: {type(error).__name__}") from None


def _meaning(status: int, headers: Mapping[str, str], said: str) -> SinkError:
    code = said.strip() if _CODE.fullmatch(said.strip()) else ""
    told = f"Slack answered {status}{f', {code}' if code else ''}"
    if status == HTTPStatus.TOO_MANY_REQUESTS or code in _BUSY:
        seconds = retry_after_seconds(headers, UNSAID_SECONDS)
        return SinkBusy(f"{told}: it asks to wait for {seconds:g} s", seconds)
    if code in FOR_GOOD:
        return SinkRefused(told)
    client_error = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    return SinkRefused(told) if client_error and status not in _PASSING_STATUS else SinkDown(told)
