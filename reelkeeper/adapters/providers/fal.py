"""fal: requests of its queue, found again in the list of an endpoint's requests by the seed that we sent.

    POST https://queue.fal.run/MODEL?fal_webhook=URL      the model's input -> {"request_id", "response_url", ...}
    GET  .../OWNER/ALIAS/requests/ID/status               IN_QUEUE, IN_PROGRESS, COMPLETED, also if it failed
    GET  .../OWNER/ALIAS/requests/ID                      its output, or why it failed
    PUT  .../OWNER/ALIAS/requests/ID/cancel               one that is stopped ends as 499, client_cancelled
    GET  https://api.fal.ai/v1/models/requests/by-endpoint
    GET  https://api.fal.ai/v1/models/pricing             what a unit of a model costs
    GET  https://api.fal.ai/v1/models/billing-events      with an admin key: what each request cost
    DELETE https://api.fal.ai/v1/models/requests/ID/payloads  with an admin key: -> {"cdn_delete_results"}

The list has the requests that have ended; whether it has waiting ones is not known.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from reelkeeper.adapters.providers.contract import Guarantee, Order, Standing, Status, Submission, Way
from reelkeeper.adapters.providers.inputs import (
    aspect_ratio,
    marked_url,
    options_of,
    parts_of,
    seconds_of,
    seed_of,
    with_parameters,
)
from reelkeeper.adapters.providers.transport import (
    CLOCKS_DIFFER,
    Answer,
    OverHttp,
    Transport,
    decimal,
    erased,
    is_about_content,
    job_name,
    status_of,
    words,
)
from reelkeeper.errors import GenerationRefused, GenerationUnknown
from reelkeeper.model.jobs import VendorErasure
from reelkeeper.model.money import Published, PublishedRate, VendorJob

_MODEL: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)+")
_JOB: Final = re.compile(r"([\w-][\w.-]*/){2,3}requests/[\w-]+")
_SPACES: Final = {"workflows", "comfy"}  # namespaces that precede owner and alias
_PAGES: Final = 100
_STATUSES: Final = {"IN_QUEUE": Status.QUEUED, "IN_PROGRESS": Status.RUNNING, "COMPLETED": Status.SUCCEEDED}
_INPUT_REFUSED: Final = {400, 413, 422}
_RESULT_SECONDS: Final = 30 * 86_400  # that fal keeps results, by which a person may have a video fetched again
_UNITS: Final = {"seconds": "second", "video": "clip", "videos": "clip"}  # as the catalogue names them
_PRICE_SECONDS: Final = 3600.0  # a price is read again after
_NO_PRICE_SECONDS: Final = 300.0  # and one that could not be read


class Fields(NamedTuple):
    """The names and formats of a model's inputs. `seed`: whether it accepts one, which identifies our request."""

    image: str = "image_url"
    duration: str = "{}"  # format of the seconds; "" for a number
    resolution: str = "{}p"  # format of the shorter side; "" if the model has only one
    named: Mapping[int, str] = MappingProxyType({})  # resolutions with a name instead
    seed: bool = False


_BY_WIDTH: Final = MappingProxyType({1440: "2K", 2160: "4K"})
# From the pages https://fal.ai/models/MODEL/llms.txt, November 2026. The first match counts.
_FIELDS: Final = {
    "fal-ai/veo3.1": Fields(duration="{}s", named={2160: "4k"}, seed=True),
    "bytedance/seedance-": Fields(named={2160: "4k"}),
    "fal-ai/kling-video/v2.6/": Fields(image="start_image_url", resolution=""),
    "fal-ai/kling-video/v3/": Fields(image="start_image_url", resolution=""),
    "fal-ai/kling-video/": Fields(resolution=""),
    "fal-ai/wan/": Fields(seed=True),
    "fal-ai/ltx-2/": Fields(duration=""),
    "minimax/h3-max/": Fields(resolution="{}P", named=_BY_WIDTH),
    "minimax/h3/": Fields(duration="", resolution="{}P", named=_BY_WIDTH),
}


class FalProvider(OverHttp):
    """queue.fal.run and api.fal.ai, or `url` instead of both."""

    name = "fal"
    takes_image_bytes = False
    guarantee = Guarantee((Way.LISTING,))

    def __init__(
        self,
        key: str,
        *,
        url: str | None = None,
        webhook_url: str | None = None,
        webhook_secret: str | None = None,
        hosts: tuple[str, ...] = (),
        **how: Any,  # noqa: ANN401  of Transport
    ) -> None:
        headers = {"Authorization": f"Key {key}"}
        self._calls = Transport(url or "https://queue.fal.run", headers, hosts=("fal.media", *hosts), **how)
        self._platform = Transport(url or "https://api.fal.ai", headers, **how)
        self._webhook_url, self._webhook_secret = webhook_url, webhook_secret
        self._prices: dict[str, tuple[float, Decimal | None]] = {}  # by model, and until when it is known

    def submit(self, submission: Submission) -> str:
        """Put a request into the queue of its model."""
        model, key = submission.order.model, submission.key
        if not _MODEL.fullmatch(model):
            raise GenerationRefused(f"{model!r} is not a model of fal: OWNER/ALIAS, optionally with a path")
        path = f"/{model}"
        if self._webhook_url:
            path += f"?{urlencode({'fal_webhook': marked_url(self._webhook_url, key, self._webhook_secret)})}"
        fields = self._calls.submit(path, _input(submission), _times(submission.order)).fields
        return job_path(model, job_name(fields.get("request_id")), fields.get("response_url"))

    def find(self, order: Order) -> Standing | None:
        """Look for our seed among the requests of the job's model. A request that is missing may still appear."""
        key = str(order.provider_key)
        if not _is_marked(order):
            raise GenerationUnknown("the provider's list is searched by our seed, and this job was sent without one")
        since = order.started_at - CLOCKS_DIFFER if order.started_at else None
        for listed in self._requests(order.model, since):
            sent = listed.get("json_input")
            # guard provider.fal_mark: a job in doubt adopts another job's request, and its user gets that video
            if (
                isinstance(sent, dict)
                and sent.get("seed") == seed_of(key)
                and sent.get("prompt") == order.request["prompt"]
            ):
                return Standing(job_path(order.model, job_name(listed.get("request_id"))), Status.RUNNING)
        return None

    def look(self, job_id: str) -> Standing | None:
        """Read the request's state, and its output once it has ended."""
        answer = self._calls.get(f"/{job_id}/status", "a request")
        if answer is None:
            return None
        status = status_of(_STATUSES, answer.fields.get("status"))
        if status is not Status.SUCCEEDED:
            return Standing(job_id, status)
        return _ended(job_id, answer, self._calls.ask("GET", f"/{job_id}"))

    def unit_usd(self, order: Order) -> Decimal | None:
        """Read the price of a unit, whatever that is, as fal has it for this account; None where it cannot be read."""
        until, price = self._prices.get(order.model, (0.0, None))
        if time.monotonic() >= until:
            try:
                price, _ = self._price(order.model)
            except GenerationUnknown:
                price = None
            until = time.monotonic() + (_NO_PRICE_SECONDS if price is None else _PRICE_SECONDS)
            self._prices[order.model] = until, price
        return price

    def published(self, models: Iterable[str]) -> dict[str, Published]:
        """Read the price of a unit of each model, as fal has it for this account. Raises GenerationUnknown."""
        found = dict[str, Published]()
        for model in models:
            price, unit = self._price(model)
            if price is not None:
                rates = (PublishedRate(price),)
                found[model] = Published("fal's pricing API", _UNITS.get(unit, unit), rates, is_base=True)
        return found

    def _price(self, model: str) -> tuple[Decimal | None, str]:
        page = self._platform.get(f"/v1/models/pricing?{urlencode({'endpoint_id': model})}", "its prices")
        listed = page.fields.get("prices") if page else []
        if not isinstance(listed, list):
            raise GenerationUnknown("the provider's answer lists no prices")
        prices = [entry for entry in listed if isinstance(entry, dict) and entry.get("currency") == "USD"]
        return (decimal(prices[0].get("unit_price")), str(prices[0].get("unit"))) if prices else (None, "")

    def cancel(self, job_id: str) -> None:
        """Remove the request from the queue; a running model may go on."""
        self._calls.tell("PUT", f"/{job_id}/cancel")

    def erase(self, job_id: str) -> VendorErasure:
        """Delete what was sent and made, with its files; input images of ours are not at fal."""
        answer = self._platform.ask("DELETE", f"/v1/models/requests/{job_id.rpartition('/')[2]}/payloads")
        files = answer.fields.get("cdn_delete_results")
        says_so = isinstance(files, list) and not any(
            isinstance(file, dict) and file.get("exception") for file in files
        )
        return erased(answer, says_so=says_so)

    def billed(self, first: datetime, end: datetime) -> list[VendorJob]:
        """List the billing events. For thirty days, their requests include the seed that was sent."""
        between = {"start": first.isoformat(), "end": end.isoformat()}
        events = list(self._listed("billing-events", "billing_events", between | {"limit": "1000"}))
        seeds: dict[object, str] = {}
        for endpoint in sorted({str(event.get("endpoint_id")) for event in events}):
            for request in self._requests(endpoint, first, end):
                sent = request.get("json_input")
                if isinstance(sent, dict) and "seed" in sent:
                    seeds[request.get("request_id")] = str(sent["seed"])
        return [_billed(event, seeds.get(event.get("request_id"))) for event in events]

    def mark_of(self, key: str) -> str:
        """Return the seed."""
        return str(seed_of(key))

    def _requests(self, model: str, first: datetime | None, end: datetime | None = None) -> Iterator[dict[str, Any]]:
        query = {"endpoint_id": model, "expand": "payloads", "limit": "100"}
        query |= {name: at.isoformat() for name, at in (("start", first), ("end", end)) if at}
        return self._listed("requests/by-endpoint", "items", query)

    def _listed(self, what: str, name: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        for _ in range(_PAGES):
            page = self._platform.get(f"/v1/models/{what}?{urlencode(query)}", "a list of its requests")
            items = page.fields.get(name) if page else None
            if page is None or not isinstance(items, list):
                raise GenerationUnknown("the provider's answer lists no requests")
            yield from (item for item in items if isinstance(item, dict))
            following = page.fields.get("next_cursor")
            if not following:
                return
            query = query | {"cursor": str(following)}
        raise GenerationUnknown(f"the provider has more than {_PAGES} pages since then")


def _times(order: Order) -> dict[str, str]:
    """Build the headers that limit how late a request may begin, and how long fal keeps its files publicly."""
    if (left := order.seconds_left) is None:
        return {}
    # guard provider.fal_expiry: a paid video is deleted at fal while it may still be fetched
    kept = {"expiration_duration_seconds": left + _RESULT_SECONDS}
    # guard provider.fal_deadline: a request that we have given up begins at fal later, and is charged
    return {"X-Fal-Request-Timeout": str(left), "X-Fal-Object-Lifecycle-Preference": json.dumps(kept)}


def _billed(event: dict[str, Any], seed: str | None) -> VendorJob:
    model, cost = str(event.get("endpoint_id")), event.get("cost_estimate_nano_usd")
    try:
        at = datetime.fromisoformat(str(event.get("timestamp")))
    except ValueError:
        raise GenerationUnknown("the provider's answer does not say when it billed a request") from None
    # guard provider.fal_cost: a billed request with an unreadable cost counts as free
    if not isinstance(cost, int) or cost < 0:
        raise GenerationUnknown("the provider's answer does not say what it billed for a request")
    return VendorJob(job_path(model, job_name(event.get("request_id"))), model, at, cost, seed)


def job_path(model: str, request_id: str, response_url: object = None) -> str:
    """Return the path of a request, from the answer or from its model; the URLs of all later calls begin with it."""
    path = parts_of(response_url).path.strip("/")
    if _JOB.fullmatch(path) and path.endswith(f"/{request_id}"):
        return path
    parts = model.split("/")
    return "/".join([*parts[: 3 if parts[0] in _SPACES else 2], "requests", request_id])


def _fields(model: str) -> Fields:
    return next((fields for name, fields in _FIELDS.items() if model.startswith(name)), Fields())


def _is_marked(order: Order) -> bool:
    # guard provider.fal_seed: a job that fal may have is taken for absent, and made again
    is_removed = (order.request.get("parameters") or {}).get("seed", 0) is None
    return _fields(order.model).seed and order.request.get("seed") is None and not is_removed


def _input(submission: Submission) -> dict[str, Any]:
    request, fields = submission.order.request, _fields(submission.order.model)
    seconds, short_side = seconds_of(request), min(request["width"], request["height"])
    sent: dict[str, Any] = {
        "prompt": request["prompt"],
        "duration": fields.duration.format(seconds) if fields.duration else seconds,
        "aspect_ratio": aspect_ratio(request),
    }
    if fields.resolution:
        sent["resolution"] = fields.named.get(short_side) or fields.resolution.format(short_side)
    sent |= options_of(request)
    if _is_marked(submission.order):
        sent["seed"] = seed_of(submission.key)
    if submission.image_url:
        sent[fields.image] = submission.image_url
    return with_parameters(sent, request)


def _ended(job_id: str, status: Answer, result: Answer) -> Standing:
    """Read the outcome of a finished request. A transport error says nothing about it."""
    units = decimal(result.headers.get("x-fal-billable-units"))
    units = None if units is None or units < 0 else units
    # guard provider.fal_units: a request that fal does not charge for uses up the budget
    billed: dict[str, Any] = {
        "cost_microusd": 0 if units == 0 else None,
        "is_charged": bool(units),
        "units": units or None,
    }
    if result.is_success:
        return Standing(job_id, Status.SUCCEEDED, 1.0, video_url=_video_url(result.fields), **billed)
    if result.status in _INPUT_REFUSED:
        kind = Status.MODERATED if is_about_content(result.body) else Status.REFUSED
        return Standing(job_id, kind, error=words(result.body), **billed)
    # guard provider.untyped_fault: a gateway's error counts as the job's failure, and the job is made and paid again
    if status.fields.get("error") or result.headers.get("X-Fal-Error-Type"):
        is_cancelled = result.headers.get("X-Fal-Error-Type") == "client_cancelled"
        kind = Status.CANCELLED if is_cancelled else Status.FAILED
        return Standing(job_id, kind, error=words(result.body or status.body), **billed)
    raise GenerationUnknown(f"the provider answered {result.status} when asked for the output")


def _video_url(output: dict[str, Any]) -> str | None:
    videos = output.get("videos")
    video = output.get("video") or (videos[0] if isinstance(videos, list) and videos else None)
    url = video.get("url") if isinstance(video, dict) else video
    return url if isinstance(url, str) else None
