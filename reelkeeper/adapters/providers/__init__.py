"""Who makes videos: ffmpeg on this machine, or a provider, each in a file of its own on one contract."""

from reelkeeper.adapters.providers.contract import Generator
from reelkeeper.adapters.providers.http import HttpProvider
from reelkeeper.adapters.providers.local import LocalGenerator
from reelkeeper.adapters.providers.remote import Fetch, ImageUrl, RemoteGenerator
from reelkeeper.settings import Settings

__all__ = ["Generator", "HttpProvider", "LocalGenerator", "RemoteGenerator", "connect"]


def connect(settings: Settings, *, fetch: Fetch | None = None, image_url: ImageUrl | None = None) -> Generator:
    """Give the configured provider, or the local generator where none is. Nothing is asked of it yet.

    `fetch` and `image_url` say how either comes by an input image that the API keeps.
    """
    if settings.generator_url is None:
        return LocalGenerator(settings.images, fetch)
    token = settings.generator_token.get_secret_value() if settings.generator_token else None
    provider = HttpProvider(
        settings.generator_url,
        token,
        webhook_url=settings.generator_webhook_url,
        allow_private=settings.allow_private_addresses,
    )
    return RemoteGenerator(provider, fetch=fetch, image_url=image_url)
