"""What a bucket does by itself: lock rules, which refuse deletes and overwrites, and lifecycle rules, which delete.

GET /accounts/ID/r2/buckets/NAME/lock        rules: id, enabled, prefix, condition {Age, Date, Indefinite}
GET /accounts/ID/r2/buckets/NAME/lifecycle   rules: id, enabled, conditions.prefix, ...Transition(s)
Both want "Workers R2 Storage: Read", and `cf-r2-jurisdiction` for a bucket that has one (Cloudflare's API reference).
"""

from collections.abc import Mapping
from typing import Any

from reelkeeper.adapters.cloudflare.api import R2, Api, documented
from reelkeeper.errors import UsageUnknown
from reelkeeper.model.bucket_rules import Expiry, Lock

_DAY_SECONDS = 86_400


def locks(api: Api, bucket: str, jurisdiction: str | None) -> list[Lock]:
    """Read the lock rules of a bucket that are in effect. Raises TokenRefused, UsageUnknown."""
    rules = _rules(api, bucket, "lock", jurisdiction)
    with documented("lock rules"):
        return [
            Lock(
                str(rule["id"]), rule.get("prefix") or "", _lasts(rule["condition"]), rule["condition"]["type"] == "Age"
            )
            for rule in rules
            if rule["enabled"]
        ]


def expiries(api: Api, bucket: str, jurisdiction: str | None) -> list[Expiry]:
    """Read the lifecycle rules of a bucket that delete or move objects. Raises TokenRefused, UsageUnknown."""
    found, rules = [], _rules(api, bucket, "lifecycle", jurisdiction)
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


def _lasts(condition: Mapping[str, Any]) -> str:
    if condition["type"] == "Age":
        return f"for {condition['maxAgeSeconds'] / _DAY_SECONDS:g} days from their upload"
    return f"until {condition['date']}" if condition["type"] == "Date" else "for ever"


def _rules(api: Api, bucket: str, kind: str, jurisdiction: str | None) -> list[dict[str, Any]]:
    answer = api.get(f"/r2/buckets/{bucket}/{kind}", R2, jurisdiction=jurisdiction)
    if answer is None:  # no rules are an empty list
        raise UsageUnknown(f"Cloudflare knows no {kind} rules of a bucket {bucket!r} in this account")
    with documented(f"{kind} rules"):
        return list(answer.get("rules") or [])
