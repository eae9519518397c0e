"""Post to Slack, with one attempt per call.

The outbox decides when to retry, as slack-sdk's own retries post twice when a reply is lost, leave out 502 and 504, and
fail on a Retry-After of "1.5".

slack-sdk's log is switched off, since at level DEBUG it contains URLs and bodies; our own errors report failures, and
never contain a URL.
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

from reelkeeper.adapters.http_clients import retry_after_seconds
from reelkeeper.adapters.second_sink import as_text
from reelkeeper.adapters.slack.blocks import MAX_SECTION, escape, lay_out
from reelkeeper.errors import SinkBusy, SinkDown, SinkError, SinkRefused
from reelkeeper.model.alerts import OutboxMessage, one_line

# Permanent errors, from the tables of https://docs.slack.dev/reference/methods (of messages and files) and "Handling
# errors" of incoming webhooks. Others are retried, and the second sink gets a copy in time.
_WORDS = """
access_denied account_inactive action_prohibited as_user_not_supported blocked cannot_reply_to_message
channel_is_archived channel_not_found channel_type_not_supported deprecated_endpoint ekm_access_denied
enterprise_is_restricted file_not_found file_uploads_disabled file_uploads_except_images_disabled invalid_arg_name
invalid_arguments invalid_array_arg invalid_attachments invalid_auth invalid_blocks invalid_blocks_format
invalid_channel invalid_charset invalid_form_data invalid_metadata_format invalid_metadata_schema invalid_payload
invalid_post_type invalid_token is_archived is_inactive messages_tab_disabled metadata_must_be_sent_from_app
metadata_too_large method_deprecated missing_file_data missing_post_type missing_scope msg_blocks_too_long
msg_too_long no_active_hooks no_permission no_service no_service_id no_team no_text not_allowed_token_type not_authed
not_in_channel org_login_required posting_to_channel_denied posting_to_general_channel_denied restricted_action
restricted_action_non_threadable_channel restricted_action_read_only_channel restricted_action_thread_locked
restricted_action_thread_only_channel slack_connect_file_upload_sharing_blocked storage_limit_reached
team_access_not_granted team_disabled team_not_found token_expired token_revoked too_many_attachments
two_factor_setup_required unknown_method user_not_found user_not_in_channel
"""
FOR_GOOD: Final = frozenset(_WORDS.split())
_SIGN_IN: Final = "set a valid REELKEEPER_SLACK_BOT_TOKEN, and restart what runs"
_WAYS_OUT: Final = {
    "not_in_channel": "invite the bot, by /invite in the channel",
    "channel_not_found": "set REELKEEPER_SLACK_CHANNEL to the channel's id, not its name, and invite the bot",
    "missing_scope": "the bot needs the scopes chat:write and, for pictures, files:write",
    **dict.fromkeys(("invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive"), _SIGN_IN),
}

TIMEOUT_SECONDS = 10
PACE_SECONDS = 1.0  # Slack accepts about one message per second and channel ("Rate limits", Posting messages)
DEFAULT_WAIT_SECONDS = 60.0  # to wait after a 429 without a time
quiet_log = logging.getLogger(f"{__name__}.sdk")
quiet_log.setLevel(logging.CRITICAL + 1)

_CODE = re.compile(r"[a-z][a-z_]{2,60}")
_PASSING_STATUS: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}
_BUSY: Final = {"ratelimited", "rate_limited", "message_limit_exceeded"}


class Bot:
    """Posts as a bot, to one channel; needs the scopes chat:write and, for pictures, files:write."""

    pace_seconds = PACE_SECONDS

    def __init__(
        self,
        token: str,
        channel: str,
        api_url: str,
        *,
        has_buttons: bool = False,
        timeout_seconds: int = TIMEOUT_SECONDS,
    ) -> None:
        self._has_buttons = has_buttons
        self.name = f"slack/{channel}"
        self._channel = channel
        self._client = WebClient(
            token=token, base_url=api_url, timeout=timeout_seconds, retry_handlers=[], logger=quiet_log
        )

    def send(self, outgoing: OutboxMessage) -> str:
        """Post a message, with its picture if it has one; return Slack's timestamp or the file's id."""
        if outgoing.picture is None:
            return self._post(outgoing)
        try:
            return self._upload(outgoing)
        except SinkRefused as error:  # the text is still worth posting
            text = f"{outgoing.message.text}\n(No picture: {error})".strip()
            return self._post(OutboxMessage(outgoing.id, outgoing.message.model_copy(update={"text": text})))

    def _post(self, outgoing: OutboxMessage) -> str:
        layout = lay_out(outgoing.message, has_buttons=self._has_buttons)
        with understood():
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
        with understood():
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
    """Posts through an incoming webhook, which takes no pictures: their text is posted."""

    name = "slack/webhook"
    pace_seconds = PACE_SECONDS

    def __init__(self, url: str, *, has_buttons: bool = False, timeout_seconds: int = TIMEOUT_SECONDS) -> None:
        self._has_buttons = has_buttons
        self._client = WebhookClient(url, timeout=timeout_seconds, retry_handlers=[], logger=quiet_log)

    def send(self, outgoing: OutboxMessage) -> str:
        """Post a message; the receipt says only that it was accepted."""
        layout = lay_out(outgoing.message, has_buttons=self._has_buttons)
        with understood():
            answer = self._client.send(text=layout.text, blocks=layout.blocks, unfurl_links=False, unfurl_media=False)
        if answer.status_code != HTTPStatus.OK:
            raise _meaning(answer.status_code, answer.headers, answer.body)
        if answer.body.strip() != "ok":
            raise SinkDown("the answer at the webhook's URL was not from Slack")
        return "ok"


@contextmanager
def understood() -> Iterator[None]:
    """Translate slack-sdk's errors into ours, without their texts, which may contain a URL."""
    try:
        yield
    except SlackApiError as error:
        answer = error.response
        data = answer.data if isinstance(answer.data, dict) else {}
        raise _meaning(answer.status_code, answer.headers, str(data.get("error", ""))) from None
    except HTTPError as error:  # of the upload itself, which slack-sdk passes on
        raise _meaning(error.code, dict(error.headers.items()), "") from None
    except SlackClientError as error:
        raise SinkDown(f"slack-sdk gave up: {type(error).__name__}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise SinkDown(f"Slack gave no answer: {type(error).__name__}") from None


def _meaning(status: int, headers: Mapping[str, str], error: str) -> SinkError:
    code = error.strip() if _CODE.fullmatch(error.strip()) else ""
    problem = f"Slack answered {status}{f', {code}' if code else ''}"
    if status == HTTPStatus.TOO_MANY_REQUESTS or code in _BUSY:
        seconds = retry_after_seconds(headers, DEFAULT_WAIT_SECONDS)
        return SinkBusy(f"{problem}: it asks to wait for {seconds:g} s", seconds)
    if status == HTTPStatus.OK and not code:
        return SinkDown(f"{problem}, but not from Slack: check REELKEEPER_SLACK_API_URL, and for a proxy in between")
    if code in _WAYS_OUT:
        problem += f": {_WAYS_OUT[code]}"
    if code in FOR_GOOD:
        return SinkRefused(problem)
    client_error = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    return SinkRefused(problem) if client_error and status not in _PASSING_STATUS else SinkDown(problem)
