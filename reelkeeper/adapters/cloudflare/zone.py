"""The zone through whose cache the bucket is public: told to forget objects that are gone.

Read 2026-11 from Cloudflare's documentation, "Purge cache by single-file": at most 30 URLs a request, on every plan.
A URL is forgotten as it was asked for without headers that take part in the cache's key.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from reelkeeper.adapters.cloudflare.api import CACHE_PURGE, Api
from reelkeeper.settings import Settings

MAX_URLS: Final = 30


def connect(settings: Settings) -> "Zone | None":
    """Return the configured zone, or None where the bucket is not public through one."""
    if not (settings.public_url and settings.cache_zone_id and settings.cache_purge_token):
        return None
    token = settings.cache_purge_token.get_secret_value()
    api = Api(
        settings.cloudflare_api_url,
        settings.account_id or settings.cache_zone_id,
        token,
        setting="REELKEEPER_CACHE_PURGE_TOKEN",
        has_limit=False,
    )
    return Zone(api, settings.cache_zone_id, settings.public_url)


class Zone:
    """A zone. Raises TokenRefused, and UsageUnknown where Cloudflare does not answer."""

    def __init__(self, api: Api, zone_id: str, public_url: str) -> None:
        self._api, self._zone_id, self._public_url = api, zone_id, public_url.rstrip("/")

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def forget(self, keys: Sequence[str]) -> None:
        """Have the cache forget what it holds of these keys, at most 30."""
        files = [f"{self._public_url}/{quote(key)}" for key in keys]
        self._api.post_to_zone(self._zone_id, "/purge_cache", CACHE_PURGE, {"files": files})
