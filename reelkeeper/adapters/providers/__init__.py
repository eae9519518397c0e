"""Generators of videos: ffmpeg on this machine, or a provider; one file each, with the same contract."""

import re
from typing import Any, Final

from reelkeeper.adapters import public
from reelkeeper.adapters.providers.comfyui import ComfyUIProvider
from reelkeeper.adapters.providers.contract import NO_IMAGES, Billing, Generator, ImageSource, Provider
from reelkeeper.adapters.providers.fal import FalProvider
from reelkeeper.adapters.providers.http import HttpProvider
from reelkeeper.adapters.providers.local import LocalGenerator
from reelkeeper.adapters.providers.openai import OpenAIProvider
from reelkeeper.adapters.providers.remote import RemoteGenerator
from reelkeeper.adapters.providers.replicate import ReplicateProvider
from reelkeeper.adapters.providers.runway import RunwayProvider
from reelkeeper.adapters.providers.transport import OverHttp
from reelkeeper.errors import Misconfigured
from reelkeeper.settings import Settings

VENDORS = frozenset({"fal", "replicate"})  # vendors that call a URL which contains our key
_HOST: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")
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
    "check_sources",
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


def check_sources(settings: Settings) -> str:
    """Describe where the configured provider's videos are fetched from. Sends no request, but resolves its address.

    Raises AddressRefused where its own address is refused, and Misconfigured where another setting has its videos
    refused that are paid for.
    """
    name = settings.provider
    if name == "local":
        return "ffmpeg on this machine makes them"
    provider = _provider(name, settings)
    # guard provider.host_names: videos are paid for and refused, as a host is written in a way that matches none
    if wrong := [host for host in settings.generator_hosts if not _HOST.fullmatch(host)]:
        raise Misconfigured(
            f"REELKEEPER_GENERATOR_HOSTS has {', '.join(wrong)}: write names only, in lower case, such as cdn.example; "
            "each includes its subdomains"
        )
    assert isinstance(provider, OverHttp)  # noqa: S101  each is
    public.resolve(provider.url, allow_private=settings.allow_private_addresses)
    sources = provider.sources
    return f"{name}: videos are fetched from {'any public host' if sources is None else ', '.join(sources)}"


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
