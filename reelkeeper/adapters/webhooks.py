"""Send events to a service's own server as specified by Standard Webhooks: one signed POST, one attempt per call."""

import asyncio
import json
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Final

import httpx
from standardwebhooks import Webhook

from reelkeeper.adapters import public
from reelkeeper.adapters.http_clients import retry_after_seconds
from reelkeeper.errors import SinkBusy, SinkDown, SinkRefused
from reelkeeper.model.alerts import Delivery

TIMEOUT_SECONDS: Final = 15.0  # for the whole request: the specification's advice is 15 to 30
_KEEP_SECONDS: Final = 1.0  # less than servers keep an idle connection (gunicorn 2 s, Node 5 s), so that none is stale
_READ_SECONDS: Final = 1.0  # for the rest of an answer whose status is known
_DEFAULT_WAIT_SECONDS: Final = 60.0


class Sender:
    """Sends events to one endpoint over connections that are kept for the next event.

    Each endpoint has a sender of its own: another may have the same address, and not the same certificate.
    """

    def __init__(self, *, allow_private: bool, timeout_seconds: float) -> None:
        self._allow_private, self._timeout_seconds = allow_private, timeout_seconds
        limits = httpx.Limits(keepalive_expiry=_KEEP_SECONDS)
        self._client = httpx.AsyncClient(**public.options(timeout_seconds), limits=limits)
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))  # events are independent

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, delivery: Delivery) -> str:
        """Post an event; return a receipt for any 2xx answer.

        Raises SinkRefused for 410, which means that the endpoint is gone for good; SinkBusy if it asks to wait;
        SinkDown for everything else; AddressRefused. Redirects are not followed.
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
        try:
            # httpx limits only the wait for each byte: a server that sends one every few seconds could block for days
            # guard webhooks.deadline: an endpoint that answers byte by byte takes the place of others without end
            async with asyncio.timeout(self._timeout_seconds):
                status, wait_seconds = await self._post(delivery.url, headers, body.encode())
        except TimeoutError:
            raise SinkDown(f"it gave no answer within {self._timeout_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SinkDown(f"it gave no answer: {public.cause(error)}") from None
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return f"answered {status}"
        if status == HTTPStatus.GONE:
            raise SinkRefused("it answered 410: it accepts no more events")
        if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
            raise SinkBusy(f"it answered {status}, and asks to wait for {wait_seconds:g} s", wait_seconds)
        raise SinkDown(f"it answered {status}")

    async def _post(self, url: str, headers: dict[str, str], content: bytes) -> tuple[int, float]:
        # The name is resolved and checked for each event, and a kept connection is one to the checked address.
        # guard webhooks.public: messages are sent to an endpoint whose name now leads into our network
        at, needed = await asyncio.to_thread(public.resolve, url, allow_private=self._allow_private)
        async with self._client.stream(
            "POST",
            at,
            headers={"Accept-Encoding": "identity", **headers, **needed["headers"]},
            content=content,
            extensions=needed["extensions"],
        ) as answer:
            await _read(answer)
            return answer.status_code, retry_after_seconds(answer.headers, _DEFAULT_WAIT_SECONDS)


async def _read(answer: httpx.Response) -> None:
    """Read what follows the status, so that the connection can be kept; close it where that is long or slow."""
    size = 0
    try:
        async with asyncio.timeout(_READ_SECONDS):
            async for chunk in answer.aiter_raw():
                size += len(chunk)
                if size > public.MAX_BYTES:
                    return
    except (TimeoutError, httpx.HTTPError):
        return  # the status is known, and counts
