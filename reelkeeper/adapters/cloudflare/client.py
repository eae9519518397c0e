"""Read usage, object reads and the bill from Cloudflare, and purge objects from its cache."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from reelkeeper.adapters.cloudflare import billing
from reelkeeper.adapters.cloudflare.analytics import PAGE_ROWS, RETAINED_DAYS, Analytics, Collected, Reads
from reelkeeper.adapters.cloudflare.api import ANALYTICS, BILLING, CACHE_PURGE, R2, Api, documented
from reelkeeper.adapters.cloudflare.billing import BilledLine
from reelkeeper.errors import ReelkeeperError, UsageUnknown
from reelkeeper.model.buckets import Expiry, Lock
from reelkeeper.model.money import Metric, StorageClass, each_day
from reelkeeper.settings import Settings

_ONE_DAY = timedelta(days=1)
MAX_URLS: Final = 30  # in one request to a cache, on every plan


def connect(settings: Settings) -> "Client | None":
    """Return a client for the configured account, or None without a token: usage is then the store's own count."""
    if settings.cloudflare_api_token is None or settings.account_id is None:
        return None
    token = settings.cloudflare_api_token.get_secret_value()
    return Client(Api(settings.cloudflare_api_url, settings.account_id, token))


class Client:
    """One account at Cloudflare. Answers are complete, or name what is missing. Raises TokenRefused, UsageUnknown."""

    def __init__(self, api: Api, *, page_rows: int = PAGE_ROWS) -> None:
        self._api = api
        self._analytics = Analytics(api, page_rows=page_rows)

    def close(self) -> None:
        """Close the connections; `contextlib.closing` does so at the end of a block."""
        self._api.close()

    def usage(self, first: date, last: date, *, bucket: str | None = None) -> Collected:
        """Read operations and stored bytes of the UTC days from `first` to `last`, of the account or of one bucket.

        Days before the 30 that Cloudflare keeps complete, future days, and days without data are in `missing`.
        """
        today = datetime.now(UTC).date()
        oldest = today - (RETAINED_DAYS - 1) * _ONE_DAY
        start, end = max(first, oldest), min(last, today)
        kept = start <= end
        operations = self._analytics.operations(start, end, bucket) if kept else []
        stored = self._analytics.storage(start, end, bucket) if kept else []
        answered = {
            Metric.OPERATIONS: {usage.day for usage in operations},
            Metric.STORED_BYTES: {usage.day for usage in stored},
        }
        wanted = list(each_day(first, last))
        missing = {metric: [day for day in wanted if day not in days] for metric, days in answered.items()}
        return Collected([*operations, *stored], missing)

    def object_reads(self, day: date, *, bucket: str) -> Reads:
        """Read how often each object of a bucket was read on a past UTC day, at most 30 days ago."""
        return self._analytics.object_reads(day, bucket)

    def billed(self, first: date, last: date) -> list[BilledLine]:
        """Read R2's lines of these days on Cloudflare's own bill."""
        return billing.billed(self._api, first, last)

    def stored_now(self) -> dict[StorageClass, int]:
        """Read the bytes that the account stores in each class, as of about now."""
        return billing.stored_now(self._api)

    def locks(self, bucket: str, jurisdiction: str | None) -> list[Lock]:
        """Read the lock rules of a bucket that are in effect."""
        rules = self._rules(bucket, "lock", jurisdiction)
        with documented("lock rules"):
            return [
                Lock(str(rule["id"]), rule.get("prefix") or "", *_lasts(rule["condition"]))
                for rule in rules
                if rule["enabled"]
            ]

    def expiries(self, bucket: str, jurisdiction: str | None) -> list[Expiry]:
        """Read the lifecycle rules of a bucket that delete or move objects."""
        found, rules = [], self._rules(bucket, "lifecycle", jurisdiction)
        with documented("lifecycle rules"):
            for rule in rules:
                if not rule["enabled"]:
                    continue
                prefix = (rule.get("conditions") or {}).get("prefix") or ""
                if rule.get("deleteObjectsTransition"):
                    found.append(Expiry(str(rule["id"]), prefix, "deletes objects"))
                if rule.get("storageClassTransitions"):
                    found.append(Expiry(str(rule["id"]), prefix, "moves objects to another storage class"))
        return found

    def _rules(self, bucket: str, kind: str, jurisdiction: str | None) -> list[dict[str, Any]]:
        answer = self._api.get(f"/r2/buckets/{bucket}/{kind}", R2, jurisdiction=jurisdiction)
        if answer is None:  # a bucket without rules has an empty list
            raise UsageUnknown(f"Cloudflare has no {kind} rules of a bucket {bucket!r} in this account")
        with documented(f"{kind} rules"):
            return list(answer.get("rules") or [])

    def permissions(self) -> dict[str, ReelkeeperError | None]:
        """Test each permission that Reelkeeper needs: None if the token has it, else Cloudflare's answer."""
        today = datetime.now(UTC).date()
        tries = {
            ANALYTICS: lambda: self._analytics.storage(today, today),
            BILLING: lambda: self.billed(today, today),
            R2: self.stored_now,
        }
        found: dict[str, ReelkeeperError | None] = {}
        for name, attempt in tries.items():
            try:
                attempt()
            except ReelkeeperError as error:
                found[name] = error
            else:
                found[name] = None
        return found


def _lasts(condition: Mapping[str, Any]) -> tuple[timedelta | None, datetime | None]:
    if condition["type"] == "Age":
        return timedelta(seconds=condition["maxAgeSeconds"]), None
    if condition["type"] != "Date":
        return None, None
    until = datetime.fromisoformat(condition["date"])
    return None, until if until.tzinfo else until.replace(tzinfo=UTC)


def connect_zone(settings: Settings) -> "Zone | None":
    """Return the configured zone, or None if the bucket is not public through one."""
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
    """The zone whose cache serves the bucket publicly, and from which deleted objects are purged.

    Cloudflare's documentation, "Purge cache by single-file", read 2026-11: only the copy of a URL that was requested
    without headers in the cache key is purged. Raises TokenRefused, and UsageUnknown if there is no answer.
    """

    def __init__(self, api: Api, zone_id: str, public_url: str) -> None:
        self._api, self._zone_id, self._public_url = api, zone_id, public_url.rstrip("/")

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def forget(self, keys: Sequence[str]) -> None:
        """Purge these keys, at most 30, from the cache."""
        files = [f"{self._public_url}/{quote(key)}" for key in keys]
        self._api.post_to_zone(self._zone_id, "/purge_cache", CACHE_PURGE, {"files": files})
