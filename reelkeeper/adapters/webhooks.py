"""Send events to a service's own server as specified by Standard Webhooks: one signed POST, one attempt per call."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from http import HTTPStatus
from threading import Thread
from typing import Final

import httpx
from standardwebhooks import Webhook

from reelkeeper.adapters import public
from reelkeeper.adapters.retry_after import retry_after_seconds
from reelkeeper.errors import SinkBusy, SinkDown, SinkRefused
from reelkeeper.model.alerts import Delivery

TIMEOUT_SECONDS: Final = 15.0  # for the whole request: the specification's advice is 15 to 30
_DEFAULT_WAIT_SECONDS: Final = 60.0


def send(delivery: Delivery, *, allow_private: bool, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
    """Post an event; return a receipt for any 2xx answer.

    Raises SinkRefused for 410, which means that the endpoint is gone for good; SinkBusy if it asks to wait; SinkDown
    for everything else; AddressRefused. Redirects are not followed, and the body of an answer is not read.
    """
    body = json.dumps(delivery.body, separators=(",", ":"), ensure_ascii=False)
    signatures = (Webhook(secret).sign(delivery.id, delivery.at, body) for secret in delivery.secrets)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Reelkeeper",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(delivery.at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }

    def post() -> tuple[int, float]:
        with public.streamed(
            "POST",
            delivery.url,
            # guard webhooks.public: messages are sent to an endpoint whose name now leads into our network
            allow_private=allow_private,
            headers=headers,
            content=body.encode(),
            timeout_seconds=timeout_seconds,
        ) as answer:
            return answer.status_code, retry_after_seconds(answer.headers, _DEFAULT_WAIT_SECONDS)

    try:
        status, wait_seconds = _within(timeout_seconds, post)
    except TimeoutError:
        raise SinkDown(f"it gave no answer within {timeout_seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SinkDown(f"it gave no answer: {public.cause(error)}") from None
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return f"answered {status}"
    if status == HTTPStatus.GONE:
        raise SinkRefused("it answered 410: it accepts no more events")
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        raise SinkBusy(f"it answered {status}, and asks to wait for {wait_seconds:g} s", wait_seconds)
    raise SinkDown(f"it answered {status}")


def _within(seconds: float, act: Callable[[], tuple[int, float]]) -> tuple[int, float]:
    """Run a function in its own thread; if it takes too long, raise TimeoutError and abandon the thread.

    httpx limits only the wait for each byte: a server that sends one every few seconds could block for days.
    """
    future: Future[tuple[int, float]] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:  # noqa: BLE001  raised where the result is asked for
            future.set_exception(error)

    Thread(target=copy_context().run, args=(run,), name="webhook", daemon=True).start()
    # guard webhooks.deadline: an endpoint that answers byte by byte blocks its thread without end
    return future.result(seconds)
