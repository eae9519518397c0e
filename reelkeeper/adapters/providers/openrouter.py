"""OpenRouter: jobs in OpenAI's format, but sent as JSON, with the cost of each in dollars; there is no list of them.

    POST /videos             {"model", "prompt", "duration", "resolution", "aspect_ratio", "callback_url"?} -> {"id"}
    GET  /videos/ID          its state; in the end {"usage": {"cost"}} as well
    GET  /videos/ID/content  its bytes
    GET  /videos/models      its models, with what each makes and costs

It has no call that cancels a job. A job whose answer was lost is named by its callback alone.
(openrouter.ai/docs/api_reference/videos and the client openrouter 1.3.84, read on 2026-11-29.)
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from reelkeeper.adapters.providers.contract import Guarantee, Standing, Submission
from reelkeeper.adapters.providers.inputs import aspect_ratio, marked_url, options_of, seconds_of, with_parameters
from reelkeeper.adapters.providers.openai import VideosProvider
from reelkeeper.adapters.providers.transport import Transport, cost_microusd, decimal, job_name
from reelkeeper.errors import GenerationRefused, GenerationUnknown
from reelkeeper.model.money import Published, PublishedRate

_NAMED: Final = {1440: "2K", 2160: "4K"}  # resolutions that are not named by their shorter side
_SIDES: Final = {name: f"{side}p" for side, name in _NAMED.items()}
_LIST: Final = "OpenRouter's list of models"
_SKU: Final = re.compile(r"(cents_per_second_output)|duration_seconds(_with_audio|_without_audio)?(?:_(\w+))?")


class OpenRouterProvider(VideosProvider):
    """openrouter.ai, or `url` instead."""

    name = "openrouter"
    guarantee = Guarantee(cancels=False)
    takes_image_bytes = False

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
        headers = {"Authorization": f"Bearer {key}"}
        self._calls = Transport(url or "https://openrouter.ai/api/v1", headers, hosts=hosts, **how)
        self._webhook_url, self._webhook_secret = webhook_url, webhook_secret

    def submit(self, submission: Submission) -> str:
        """Submit a job."""
        request = submission.order.request
        short_side = min(request["width"], request["height"])
        sent: dict[str, Any] = {
            "model": submission.order.model,
            "prompt": request["prompt"],
            "duration": seconds_of(request),
            "resolution": _NAMED.get(short_side, f"{short_side}p"),
            "aspect_ratio": aspect_ratio(request),
        }
        options = options_of(request)
        if "negative_prompt" in options:  # it might be dropped, and the video paid
            raise GenerationRefused("OpenRouter takes no negative prompt")
        sent |= options
        if submission.image_url:
            frame = {"type": "image_url", "image_url": {"url": submission.image_url}, "frame_type": "first_frame"}
            sent["frame_images"] = [frame]
        if self._webhook_url:
            sent["callback_url"] = marked_url(self._webhook_url, submission.key, self._webhook_secret)
        return job_name(self._calls.submit("/videos", with_parameters(sent, request)).fields.get("id"))

    def cancel(self, job_id: str) -> None:
        """Do nothing: it has no such call."""

    def published(self, models: Iterable[str]) -> dict[str, Published]:
        """Read what each model makes and costs; one that is not listed has ended. Raises GenerationUnknown."""
        answer = self._calls.get("/videos/models", "its models")
        listed = answer.fields.get("data") if answer else None
        # guard catalogue.listed: of an empty answer, all models count as ended
        if not isinstance(listed, list) or not listed:
            raise GenerationUnknown("the provider's answer lists no models")
        known = {str(entry.get("id")): _published(entry) for entry in listed if isinstance(entry, dict)}
        return {model: known.get(model, Published(_LIST, is_listed=False)) for model in models}

    def _standing(self, document: dict[str, Any]) -> Standing:
        found, usage = super()._standing(document), document.get("usage")
        # guard provider.own_key: the fee for a job on a key of our own counts as all that it cost
        if isinstance(usage, dict) and not usage.get("is_byok"):
            return replace(found, cost_microusd=cost_microusd(usage.get("cost")))
        return found


def _published(entry: dict[str, Any]) -> Published:
    """Read an entry of the list of models. A price that is not for each second is not compared."""
    skus = entry.get("pricing_skus")
    rates, others = list[PublishedRate](), list[str]()
    for name, price in (skus if isinstance(skus, dict) else {}).items():
        usd, sku = decimal(price), _SKU.fullmatch(str(name))
        if usd is None or sku is None:
            others.append(str(name))
            continue
        cents, sound, size = sku.groups()
        usd = usd / 100 if cents else usd
        resolution = None if size is None else _SIDES.get(size.upper(), size)
        rates.append(PublishedRate(usd, resolution, None if sound is None else sound == "_with_audio"))
    return Published(
        _LIST,
        "second" if rates else ", ".join(others),
        tuple(rates),
        seconds=tuple(found for second in _list(entry, "supported_durations") if (found := decimal(second))),
        resolutions=tuple(_SIDES.get(str(size).upper(), str(size)) for size in _list(entry, "supported_resolutions")),
        aspects=tuple(str(aspect) for aspect in _list(entry, "supported_aspect_ratios")),
        has_sound=entry["generate_audio"] if isinstance(entry.get("generate_audio"), bool) else None,
    )


def _list(entry: dict[str, Any], name: str) -> list[Any]:
    found = entry.get(name)
    return found if isinstance(found, list) else []
