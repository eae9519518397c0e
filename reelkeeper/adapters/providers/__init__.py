"""Generators of videos: ffmpeg on this machine, or a provider; one file each, with the same contract."""

from typing import Any

from reelkeeper.adapters.providers.comfyui import ComfyUIProvider
from reelkeeper.adapters.providers.contract import NO_IMAGES, Billing, Generator, ImageSource, Provider
from reelkeeper.adapters.providers.fal import FalProvider
from reelkeeper.adapters.providers.http import HttpProvider
from reelkeeper.adapters.providers.local import LocalGenerator
from reelkeeper.adapters.providers.openai import OpenAIProvider
from reelkeeper.adapters.providers.remote import RemoteGenerator
from reelkeeper.adapters.providers.replicate import ReplicateProvider
from reelkeeper.adapters.providers.runway import RunwayProvider
from reelkeeper.errors import Misconfigured
from reelkeeper.settings import Settings

VENDORS = frozenset({"fal", "replicate"})  # vendors that call a URL which contains our key
__all__ = [
    "VENDORS",
    "ComfyUIProvider",
    "FalProvider",
    "Generator",
    "HttpProvider",
    "LocalGenerator",
    "OpenAIProvider",
    "RemoteGenerator",
    "ReplicateProvider",
    "RunwayProvider",
    "billing",
    "connect",
]


def connect(settings: Settings, images: ImageSource = NO_IMAGES) -> Generator:
    """Return the configured generator, by default the local one; it reads input images from `images`. No request."""
    name = settings.provider
    if name == "local":
        return LocalGenerator(settings.images, images)
    return RemoteGenerator(_provider(name, settings), model=settings.generator_model, images=images)


def billing(settings: Settings, name: str) -> Billing:
    """Return the account of the configured provider, which must be `name`. Sends no request. Raises Misconfigured."""
    if settings.provider != name:
        raise Misconfigured(
            f"REELKEEPER_GENERATOR is {settings.provider}: to read the account at {name}, set it and its "
            "REELKEEPER_GENERATOR_TOKEN for this command"
        )
    provider = _provider(name, settings)
    if not isinstance(provider, FalProvider | ReplicateProvider | RunwayProvider | OpenAIProvider):
        raise Misconfigured(f"{name} offers no list of its jobs that can be read")
    return provider


def _provider(name: str, settings: Settings) -> Provider:
    url, webhook_url, hosts = settings.generator_url, settings.generator_webhook_url, settings.generator_hosts
    token = settings.generator_token.get_secret_value() if settings.generator_token else ""
    how: dict[str, Any] = {"allow_private": settings.allow_private_addresses}
    if name in VENDORS:
        secret = settings.generator_webhook_secret
        how |= {"url": url, "webhook_url": webhook_url, "webhook_secret": secret and secret.get_secret_value()}
    match name:
        case "fal":
            return FalProvider(token, hosts=hosts, **how)
        case "replicate":
            return ReplicateProvider(token, hosts=hosts, **how)
        case "runway":
            return RunwayProvider(token, url=url, hosts=hosts, **how)
        case "openai":
            return OpenAIProvider(str(url), token, hosts=hosts, **how)
        case "comfyui":
            return ComfyUIProvider(str(url), token, hosts=hosts, **how)
    return HttpProvider(str(url), token, webhook_url=webhook_url, hosts=hosts or None, **how)
