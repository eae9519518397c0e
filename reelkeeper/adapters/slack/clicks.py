"""Read Slack's request when a person presses a button: a signed form whose `payload` is JSON, type block_actions.

Slack's documentation: "Handling user interaction in your Slack apps", "Verifying requests from Slack".
"""

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ValidationError
from slack_sdk import WebhookClient
from slack_sdk.signature import SignatureVerifier

from reelkeeper.adapters.slack.blocks import MAX_SECTION, escape
from reelkeeper.adapters.slack.client import TIMEOUT_SECONDS, quiet_log, understood
from reelkeeper.errors import InputRefused, SignatureRefused, SinkDown, SinkRefused
from reelkeeper.model.alerts import Click, Verb, one_line

_MAX_NAME: Final = 80


class _User(BaseModel):
    id: str
    username: str = ""


class _Action(BaseModel):
    action_id: str
    value: str = ""
    action_ts: str = ""


class _Payload(BaseModel):
    type: str
    user: _User
    actions: tuple[_Action, ...] = ()
    response_url: str = ""


def read(secret: str, body: bytes, headers: Mapping[str, str]) -> Click | None:
    """Return which button was pressed, and by whom; None if it is not one of ours, such as a link.

    Raises SignatureRefused if it is not signed with the secret or more than 5 minutes old; InputRefused.
    """
    try:
        is_signed = SignatureVerifier(secret).is_valid_request(body, headers)
    except ValueError:  # a time that is not a number, or a body that is not text
        is_signed = False
    # guard slack.signed: anybody who knows the address can approve plans
    if not is_signed:
        raise SignatureRefused("the call is not signed by Slack for this app, or is more than 5 minutes old")
    try:
        payload = _Payload.model_validate(json.loads(parse_qs(body.decode(), strict_parsing=True)["payload"][0]))
    except (ValueError, KeyError, ValidationError) as error:
        raise InputRefused(f"the call is not a press of a button in Slack's format: {type(error).__name__}") from None
    if payload.type != "block_actions" or not payload.actions or payload.actions[0].action_id not in set(Verb):
        return None
    action = payload.actions[0]
    alert_id, fired_at, plan_id = [*action.value.split(" "), "", "", ""][:3]
    name = one_line(payload.user.username)[:_MAX_NAME]
    verb, url = Verb(action.action_id), payload.response_url
    return Click(payload.user.id, name, verb, alert_id, fired_at, plan_id, action.action_ts, url)


def answer(url: str, text: str, *, api_url: str) -> None:
    """Answer only the person who pressed the button. `url` came with the press.

    Raises SinkRefused for a URL that is not Slack's, SinkDown if it does not answer.
    """
    at, slack = urlsplit(url), urlsplit(api_url)
    host = at.hostname or ""
    # guard slack.answer_url: an answer is sent to any address that a request names
    if at.scheme != slack.scheme or not (host == slack.hostname or host.endswith(f".{slack.hostname}")):
        raise SinkRefused("the URL for the answer is not Slack's")
    client = WebhookClient(url, timeout=TIMEOUT_SECONDS, retry_handlers=[], logger=quiet_log)
    with understood():
        response = client.send(text=escape(text, MAX_SECTION), response_type="ephemeral", replace_original=False)
    if not response.status_code < 300:  # noqa: PLR2004  a success
        raise SinkDown(f"Slack answered {response.status_code}")
