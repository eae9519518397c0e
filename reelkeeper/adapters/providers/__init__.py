"""Generators of videos: ffmpeg on this machine, or a provider; one file each, with the same contract."""

import re
from collections.abc import Callable
from typing import Any, Final

from reelkeeper.adapters import public
from reelkeeper.adapters.providers.comfyui import ComfyUIProvider
from reelkeeper.adapters.providers.contract import (
    NO_IMAGES,
    Billing,
    Generator,
    Generators,
    ImageSource,
    PriceList,
    Provider,
)
from reelkeeper.adapters.providers.fal import FalProvider
from reelkeeper.adapters.providers.http import HttpProvider
from reelkeeper.adapters.providers.local import LocalGenerator
from reelkeeper.adapters.providers.openai import OpenAIProvider
from reelkeeper.adapters.providers.openrouter import OpenRouterProvider
from reelkeeper.adapters.providers.remote import RemoteGenerator
from reelkeeper.adapters.providers.replicate import ReplicateProvider
from reelkeeper.adapters.providers.runway import RunwayProvider
from reelkeeper.adapters.providers.transport import OverHttp
from reelkeeper.errors import Misconfigured
from reelkeeper.settings import Settings

# Vendors that call a URL which contains our key.
VENDORS: Final[dict[str, Callable[..., Provider]]] = {
    "fal": FalProvider,
    "replicate": ReplicateProvider,
    "openrouter": OpenRouterProvider,
}
_HOST: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")
__all__ = [
    "VENDORS",
    "ComfyUIProvider",
    "FalProvider",
    "Generator",
    "Generators",
    "HttpProvider",
    "LocalGenerator",
    "OpenAIProvider",
    "OpenRouterProvider",
    "RemoteGenerator",
    "ReplicateProvider",
    "RunwayProvider",
    "billing",
    "check_sources",
    "connect",
    "price_lists",
    "provider",
]


def connect(settings: Settings, images: ImageSource = NO_IMAGES) -> Generators:
    """Return a generator for each configured vendor, or the local one; they read input images from `images`.

    Sends no request.
    """
    default, found = settings.provider, dict[str, Generator]()
    for name in settings.vendors:
        model = settings.generator_model if name == default else None
        found[name] = RemoteGenerator(provider(name, settings), model=model, images=images)
    if default == "local":
        found["local"] = LocalGenerator(settings.images, images)
    return Generators(found, default)


def billing(settings: Settings, name: str) -> Billing:
    """Return the account at the vendor `name`. Sends no request. Raises Misconfigured."""
    if name not in settings.vendors:
        raise Misconfigured(f"no key of {name} is set: to read the account there, set REELKEEPER_{name.upper()}_TOKEN")
    found = provider(name, settings)
    if not isinstance(found, FalProvider | ReplicateProvider | RunwayProvider | OpenAIProvider):
        raise Misconfigured(f"{name} offers no list of its jobs that can be read")
    return found


def price_lists(settings: Settings) -> dict[str, PriceList]:
    """Return the configured vendors that publish prices or limits. Sends no request."""
    vendors = {name: provider(name, settings) for name in settings.vendors}
    return {name: found for name, found in vendors.items() if isinstance(found, FalProvider | OpenRouterProvider)}


def check_sources(settings: Settings) -> str:
    """Describe where each vendor's videos are fetched from. Sends no request, but resolves the vendors' addresses.

    Raises AddressRefused where one is refused, and Misconfigured where another setting has videos refused that are paid
    for.
    """
    # guard provider.host_names: videos are paid for and refused, as a host is written in a way that matches none
    if wrong := [host for host in settings.generator_hosts if not _HOST.fullmatch(host)]:
        raise Misconfigured(
            f"REELKEEPER_GENERATOR_HOSTS has {', '.join(wrong)}: write names only, in lower case, such as cdn.example; "
            "each includes its subdomains"
        )
    found = list[str]()
    for name in settings.vendors:
        vendor = provider(name, settings)
        assert isinstance(vendor, OverHttp)  # noqa: S101  each is
        public.resolve(vendor.url, allow_private=settings.allow_private_addresses)
        hosts = vendor.sources
        found.append(f"{name}: videos are fetched from {'any public host' if hosts is None else ', '.join(hosts)}")
    return "; ".join(found) or "none is set up: what jobs ask for, ffmpeg on this machine makes, as samples"


def provider(name: str, settings: Settings) -> Provider:
    """Return the vendor `name`, which is set up. Sends no request."""
    at, hosts = settings.access(name), settings.generator_hosts
    how: dict[str, Any] = {"allow_private": settings.allow_private_addresses}
    if name in VENDORS:
        how |= {"url": at.url, "webhook_url": at.webhook_url, "webhook_secret": at.webhook_secret}
        return VENDORS[name](at.token, hosts=hosts, **how)
    match name:
        case "runway":
            return RunwayProvider(at.token, url=at.url, hosts=hosts, **how)
        case "openai":
            return OpenAIProvider(str(at.url), at.token, hosts=hosts, **how)
        case "comfyui":
            return ComfyUIProvider(str(at.url), at.token, hosts=hosts, **how)
    return HttpProvider(str(at.url), at.token, webhook_url=at.webhook_url, hosts=hosts or None, **how)
