"""What makes videos: a local generator by ffmpeg, and any provider that is reached by HTTP."""

from reelkeeper.adapters.generator.http import HttpGenerator, ImageUrl
from reelkeeper.adapters.generator.local import Fetch, LocalGenerator
from reelkeeper.adapters.generator.provider import Provider
from reelkeeper.settings import Settings

Generator = HttpGenerator | LocalGenerator

__all__ = ["Generator", "HttpGenerator", "LocalGenerator", "connect"]


def connect(settings: Settings, *, fetch: Fetch | None = None, image_url: ImageUrl | None = None) -> Generator:
    """Give the configured provider, or the local generator where none is. Nothing is asked of it yet.

    `fetch` and `image_url` say how either comes by an input image that the API keeps.
    """
    if settings.generator_url is None:
        return LocalGenerator(settings.images, fetch)
    token = settings.generator_token.get_secret_value() if settings.generator_token else None
    return HttpGenerator(
        Provider(
            settings.generator_url,
            token,
            webhook_url=settings.generator_webhook_url,
            allow_private=settings.allow_private_addresses,
        ),
        image_url=image_url,
    )
