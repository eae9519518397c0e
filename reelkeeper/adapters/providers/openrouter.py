"""OpenRouter: jobs in OpenAI's format, but sent as JSON, with the cost of each in dollars; there is no list of them.

    POST /videos             {"model", "prompt", "duration", "resolution", "aspect_ratio", "callback_url"?} -> {"id"}
    GET  /videos/ID          its state; in the end {"usage": {"cost"}} as well
    GET  /videos/ID/content  its bytes

It has no call that cancels a job. A job whose answer was lost is named by its callback alone.
(openrouter.ai/docs/api_reference/videos and the client openrouter 1.3.84, read on 2026-11-29.)
"""

from dataclasses import replace
from typing import Any, Final

from reelkeeper.adapters.providers.contract import Standing, Submission
from reelkeeper.adapters.providers.inputs import aspect_ratio, marked_url, options_of, seconds_of, with_parameters
from reelkeeper.adapters.providers.openai import VideosProvider
from reelkeeper.adapters.providers.transport import Transport, cost_microusd, job_name
from reelkeeper.errors import GenerationRefused

_NAMED: Final = {1440: "2K", 2160: "4K"}  # resolutions that are not named by their shorter side


class OpenRouterProvider(VideosProvider):
    """openrouter.ai, or `url` instead."""

    name = "openrouter"
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

    def _standing(self, document: dict[str, Any]) -> Standing:
        found, usage = super()._standing(document), document.get("usage")
        # guard provider.own_key: the fee for a job on a key of our own counts as all that it cost
        if isinstance(usage, dict) and not usage.get("is_byok"):
            return replace(found, cost_microusd=cost_microusd(usage.get("cost")))
        return found
