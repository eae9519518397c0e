"""Read a bucket's lifecycle rules: those that delete or move objects bypass Reelkeeper."""

from typing import TYPE_CHECKING

from reelkeeper.adapters.s3.transport import translate_errors
from reelkeeper.errors import ObjectMissing
from reelkeeper.model.buckets import Expiry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def read_expiries(client: "S3Client", bucket: str) -> list[Expiry]:
    """Read the bucket's lifecycle rules that delete or move objects. StorageError if the token may not."""
    try:
        with translate_errors("the lifecycle rules"):
            answer = client.get_bucket_lifecycle_configuration(Bucket=bucket)
    except ObjectMissing:  # 404 NoSuchLifecycleConfiguration
        return []
    found = []
    for rule in answer.get("Rules", []):
        narrowed = rule.get("Filter", {})
        prefix = narrowed.get("Prefix") or narrowed.get("And", {}).get("Prefix") or rule.get("Prefix") or ""
        name = rule.get("ID", "without a name")
        if rule["Status"] == "Enabled" and rule.get("Expiration"):
            found.append(Expiry(name, prefix, "deletes objects"))
        if rule["Status"] == "Enabled" and rule.get("Transitions"):
            found.append(Expiry(name, prefix, "moves objects to another storage class"))
    return found
