"""The providers' formats, each with its double and its guarantees."""

from collections.abc import Callable
from typing import Any, NamedTuple

from reelkeeper.adapters.providers import (
    ComfyUIProvider,
    FalProvider,
    HttpProvider,
    OpenAIProvider,
    OpenRouterProvider,
    ReplicateProvider,
    RunwayProvider,
)
from reelkeeper.adapters.providers.contract import Provider
from tests.doubles.comfyui import ComfyUIDouble
from tests.doubles.fal import FalDouble
from tests.doubles.openai_videos import OpenAIDouble
from tests.doubles.openrouter import OpenRouterDouble
from tests.doubles.provider import ProviderDouble
from tests.doubles.replicate import SIGNING_SECRET, ReplicateDouble
from tests.doubles.runway import RunwayDouble
from tests.doubles.vendor import TOKEN, Vendor

HOOK = "https://service.example/hooks/generator"
FILES = ("127.0.0.1",)  # where the doubles have their files


class Format(NamedTuple):
    """`provider` takes a double's address, the hosts of its files, and what its Transport takes."""

    double: type[Vendor]
    provider: Callable[..., Provider]
    model: str
    finds_lost: bool
    cancels: bool = True

    def connect(self, double: Vendor | str, **how: Any) -> Provider:  # noqa: ANN401  of Transport
        url = double if isinstance(double, str) else double.url
        return self.provider(url, **{"hosts": FILES, "allow_private": True, "timeout_seconds": 60.0} | how)


_FAL = Format(
    FalDouble,
    lambda url, **how: FalProvider(TOKEN, url=url, webhook_url=HOOK, webhook_secret=SIGNING_SECRET, **how),
    "fal-ai/veo3.1/fast",
    finds_lost=True,
)
FORMATS = {
    "http": Format(ProviderDouble, lambda url, **how: HttpProvider(url, TOKEN, **how), "a", finds_lost=True),
    "fal": _FAL,
    "fal, a model without a seed": _FAL._replace(model="fal-ai/kling-video/v2.6/pro/text-to-video", finds_lost=False),
    "replicate": Format(
        ReplicateDouble,
        lambda url, **how: ReplicateProvider(TOKEN, url=url, webhook_url=HOOK, webhook_secret=SIGNING_SECRET, **how),
        "wan-video/wan-2.7",
        finds_lost=True,
    ),
    "replicate, without a webhook": Format(
        ReplicateDouble,
        lambda url, **how: ReplicateProvider(TOKEN, url=url, **how),
        f"wan-video/wan-2.7:{'e' * 64}",
        finds_lost=False,
    ),
    "runway": Format(
        RunwayDouble, lambda url, **how: RunwayProvider(TOKEN, url=url, **how), "gen4.5", finds_lost=False
    ),
    "openrouter": Format(
        OpenRouterDouble,
        lambda url, **how: OpenRouterProvider(TOKEN, url=url, webhook_url=HOOK, webhook_secret=SIGNING_SECRET, **how),
        "google/veo-3.1",
        finds_lost=False,
        cancels=False,
    ),
    "openai": Format(OpenAIDouble, lambda url, **how: OpenAIProvider(url, TOKEN, **how), "wan3", finds_lost=False),
    "comfyui": Format(ComfyUIDouble, lambda url, **how: ComfyUIProvider(url, TOKEN, **how), "wan", finds_lost=True),
}
